//! The clients of one workload and their common history.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster_tests::{Cluster, wait_until};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::client::{Outcome, Places, Session, Stage};
use crate::history::{Edn, Event, Kind, Recorder};

/// Pause between operations of a client: on a small machine the failover needs the processor, too.
const PAUSE: Duration = Duration::from_millis(20);
/// An operation under way at the end is over by then, or its end is unknown.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What the clients of a workload do.
pub trait Work: Send + Sync + 'static {
    /// Tables and first rows. Run once.
    fn tables(&self) -> String;

    /// One operation: the session if it can be used again, and how it ended.
    fn one(
        &self,
        session: Session,
        client: &mut Client,
    ) -> impl Future<Output = (Option<Session>, Kind)> + Send;

    /// Reads of everything, once all clients have ended.
    fn final_reads(&self) -> Vec<FinalRead>;
}

/// A read at the end, on every member.
pub struct FinalRead {
    /// Its name in the history.
    pub f: &'static str,
    /// As it is invoked.
    pub value: Edn,
    /// A statement.
    pub sql: String,
    /// What the rows mean.
    pub read: fn(&Edn, &[Vec<String>]) -> Result<Edn>,
}

/// One client, between its operations.
pub struct Client {
    /// Where it records.
    pub recorder: Arc<Recorder>,
    /// Its present number.
    pub process: i64,
    /// How many sessions it had.
    pub sessions: i64,
    /// What it draws from.
    pub chance: StdRng,
}

impl Client {
    /// A single statement that commits itself or only reads, recorded. `read` makes the answer; an
    /// answer of none is a `fail`: there was nothing to do.
    pub async fn statement(
        &mut self,
        session: Session,
        stage: Stage,
        (f, value): (&'static str, Edn),
        sql: &str,
        read: impl FnOnce(&[Vec<String>]) -> Option<Edn>,
    ) -> (Option<Session>, Kind) {
        let ticket = self.recorder.invoke(self.process, f, value);
        match session.ask(stage, sql).await {
            Ok(rows) => {
                let answer = read(&rows);
                let kind = if answer.is_some() {
                    Kind::Ok
                } else {
                    Kind::Fail
                };
                let mut facts = session.facts();
                facts.push(("session".to_owned(), Edn::Integer(self.sessions)));
                self.recorder.complete(ticket, kind, answer, facts);
                (Some(session), kind)
            }
            Err(Outcome { kind, more }) => {
                self.recorder.complete(ticket, kind, None, more);
                (None, kind)
            }
        }
    }
}

impl Client {
    /// Statements that commit themselves, each sent once the one before was acknowledged; the first that was not ends
    /// them. Their answers are what was asked.
    pub async fn in_turn(
        &mut self,
        session: Session,
        steps: Vec<(&'static str, Edn, String)>,
    ) -> (Option<Session>, Kind) {
        let mut at_hand = session;
        for (f, value, sql) in steps {
            let asked = (f, value.clone());
            let ended = self.statement(at_hand, Stage::Commit, asked, &sql, |_| Some(value));
            at_hand = match ended.await {
                (Some(session), Kind::Ok) => session,
                ended => return ended,
            };
        }
        (Some(at_hand), Kind::Ok)
    }
}

/// Clients at work.
pub struct Crew {
    name: String,
    recorder: Arc<Recorder>,
    /// Each client holds one of these until it has ended.
    is_over: Arc<AtomicBool>,
    final_reads: Box<dyn Fn() -> Vec<FinalRead>>,
}

impl Crew {
    /// Makes the tables and starts so many clients that follow the primary.
    ///
    /// # Errors
    /// There is no primary to make tables on.
    pub fn start<W: Work>(
        cluster: &Cluster,
        name: &str,
        work: Arc<W>,
        clients: u64,
        seed: u64,
    ) -> Result<Self> {
        let [primary] = cluster.primaries()[..] else {
            bail!("no primary: {}", cluster.seen())
        };
        cluster
            .sql(primary, &work.tables())
            .context("make tables")?;
        let reader = work.clone();
        let crew = Self {
            name: name.to_owned(),
            recorder: Arc::default(),
            is_over: Arc::default(),
            final_reads: Box::new(move || reader.final_reads()),
        };
        let places = Places::of(cluster);
        for number in 0..clients {
            let client = crew.client(seed ^ (number << 8));
            let (places, work, is_over) = (places.clone(), work.clone(), crew.is_over.clone());
            cluster.start_task(async move {
                let mut turn = usize::try_from(number).unwrap_or(0);
                let mut client = client;
                while !is_over.load(Ordering::SeqCst) {
                    if let Some(session) = places.primary(&mut turn).await {
                        work_on(&*work, session, &mut client, &is_over).await;
                    }
                }
            });
        }
        Ok(crew)
    }

    /// One more client on each member with PostgreSQL, bound to it whatever it is.
    pub fn add_on_each<W: Work>(&mut self, cluster: &Cluster, work: Arc<W>, seed: u64) {
        let places = Places::of(cluster);
        for place in 0..places.len() {
            let client = self.client(seed ^ ((place as u64) << 16));
            let places = places.only(place);
            let (work, is_over) = (work.clone(), self.is_over.clone());
            cluster.start_task(async move {
                let (mut turn, mut client) = (0, client);
                while !is_over.load(Ordering::SeqCst) {
                    if let Some(session) = places.any(&mut turn).await {
                        work_on(&*work, session, &mut client, &is_over).await;
                    }
                }
            });
        }
    }

    /// Operations that took effect so far.
    pub fn count_ok(&self) -> usize {
        self.recorder.count_ok()
    }

    /// Ends its clients; what is under way after the limit stays without an end.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        let ended = wait_until("clients end", END_LIMIT, || {
            match Arc::strong_count(&self.is_over) {
                1 => Ok(()),
                held => Err(format!("{} at work", held - 1)),
            }
        });
        if let Err(error) = ended {
            eprintln!("           {}: {error:#}", self.name);
        }
    }

    /// Reads everything on every member; the members are level.
    ///
    /// # Errors
    /// A member could not be read.
    pub fn read_all(&self, cluster: &Cluster) -> Result<()> {
        for (place, member) in cluster.members.iter().enumerate() {
            if member.is_witness {
                continue;
            }
            let places = Places::of(cluster).only(place);
            let (recorder, reads) = (self.recorder.clone(), (self.final_reads)());
            let done = cluster.run(async move {
                let session = places.any(&mut 0).await.context("connect")?;
                let process = recorder.process();
                for read in reads {
                    let ticket = recorder.invoke(process, read.f, read.value.clone());
                    let rows = session.ask(Stage::Before, &read.sql).await;
                    let rows = rows.map_err(|it| anyhow::anyhow!("{}: {it:?}", read.sql))?;
                    let answer = (read.read)(&read.value, &rows)?;
                    let mut facts = session.facts();
                    facts.push(("final".to_owned(), Edn::Bool(true)));
                    recorder.complete(ticket, Kind::Ok, Some(answer), facts);
                }
                anyhow::Ok(())
            });
            done.with_context(|| format!("final reads of {} on {}", self.name, member.name))?;
        }
        Ok(())
    }

    /// Its name and everything recorded.
    pub fn into_history(self) -> (String, Vec<Event>) {
        (self.name, self.recorder.events())
    }

    fn client(&self, seed: u64) -> Client {
        Client {
            process: self.recorder.process(),
            recorder: self.recorder.clone(),
            sessions: 0,
            chance: StdRng::seed_from_u64(seed),
        }
    }
}

async fn work_on<W: Work>(work: &W, session: Session, client: &mut Client, is_over: &AtomicBool) {
    client.sessions += 1;
    let mut at_hand = Some(session);
    while let Some(session) = at_hand.take() {
        if is_over.load(Ordering::SeqCst) || session.is_closed() {
            return;
        }
        let (left, kind) = work.one(session, client).await;
        if kind == Kind::Info {
            // Its end is unknown: this number may have an operation under way for ever.
            client.process = client.recorder.process();
        }
        at_hand = left;
        tokio::time::sleep(PAUSE).await;
    }
}
