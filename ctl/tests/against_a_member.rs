//! The built program against members that are fakes: which exit code, what on stdout, what on stderr,
//! and what is sent a second time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::admin_server::{Admin, AdminServer};
use cluster_proto::v1::planned_server::{Planned, PlannedServer};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Progress = Pin<Box<dyn Stream<Item = Result<v1::AskProgress, Status>> + Send>>;
/// What a fake answers to one `Ask`.
type AskScript = Result<Vec<Result<v1::AskProgress, Status>>, Status>;

#[derive(Clone, Default)]
struct Fake {
    /// Requests as they came: id and token.
    asked: Arc<Mutex<Vec<(String, String)>>>,
    /// Answers to `Ask`, first one first.
    scripts: Arc<Mutex<Vec<AskScript>>>,
    status: v1::Status,
    is_deaf: bool,
}

impl Fake {
    fn asks(self, script: AskScript) -> Self {
        self.scripts.lock().expect("not poisoned").push(script);
        self
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn token<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("authorization");
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

fn change(text: &str) -> Result<Response<v1::ChangeReply>, Status> {
    Ok(Response::new(v1::ChangeReply {
        text: text.to_owned(),
    }))
}

#[tonic::async_trait]
impl Admin for Fake {
    type AskStream = Progress;

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        if self.is_deaf {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.status.clone()))
    }

    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::History>, Status> {
        Ok(Response::new(v1::History::default()))
    }

    async fn explain(
        &self,
        _: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        Ok(Response::new(v1::Explanation::default()))
    }

    async fn get_dsn(&self, request: Request<v1::DsnRequest>) -> Result<Response<v1::Dsn>, Status> {
        match request.into_inner().role.as_str() {
            "any" => Ok(Response::new(v1::Dsn {
                dsn: "host=a,b".to_owned(),
                epoch: 3,
            })),
            _ => Err(Status::failed_precondition("there is no primary now")),
        }
    }

    async fn get_version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::Version>, Status> {
        Ok(Response::new(v1::Version::default()))
    }

    async fn get_settings(
        &self,
        _: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::SettingsReply>, Status> {
        Ok(Response::new(v1::SettingsReply::default()))
    }

    async fn change_settings(
        &self,
        request: Request<v1::ChangeSettingsRequest>,
    ) -> Result<Response<v1::ChangeSettingsReply>, Status> {
        let bearer = token(&request);
        let asked = request.into_inner();
        let is_lower = asked.assignments.iter().any(|one| one.value == "async");
        let what = format!("{} dry_run={}", asked.by, asked.dry_run);
        self.asked
            .lock()
            .expect("not poisoned")
            .push((what, bearer));
        Ok(Response::new(v1::ChangeSettingsReply {
            changes: vec!["mode changes".to_owned()],
            lowers: is_lower
                .then(|| "mode async: nobody confirms".to_owned())
                .into_iter()
                .collect(),
            ..Default::default()
        }))
    }

    async fn local_may_restart(
        &self,
        _: Request<v1::LocalMayRestartRequest>,
    ) -> Result<Response<v1::LocalMayRestartReply>, Status> {
        let text = "n3 is down".to_owned();
        Ok(Response::new(v1::LocalMayRestartReply { may: false, text }))
    }

    async fn ask(
        &self,
        request: Request<v1::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        let bearer = token(&request);
        let id = request.into_inner().request_id;
        self.asked.lock().expect("not poisoned").push((id, bearer));
        let mut scripts = self.scripts.lock().expect("not poisoned");
        assert!(!scripts.is_empty(), "asked more often than expected");
        let script = scripts.remove(0)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(script))))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        match token(&request).as_str() {
            "Bearer right" => change("paused"),
            _ => Err(Status::permission_denied("wrong token")),
        }
    }

    async fn resume(
        &self,
        _: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        Err(Status::deadline_exceeded(
            "proposed; nobody knows yet how it ended",
        ))
    }

    async fn replace_member(
        &self,
        _: Request<v1::ReplaceMemberRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        change("replaced")
    }

    async fn cancel_request(
        &self,
        _: Request<v1::CancelRequestRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        change("cancelled")
    }

    async fn set_log_level(
        &self,
        _: Request<v1::SetLogLevelRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        change("changed")
    }

    async fn local_collect(
        &self,
        request: Request<v1::LocalCollectRequest>,
    ) -> Result<Response<v1::LocalCollectReply>, Status> {
        if token(&request) != "Bearer right" {
            return Err(Status::permission_denied("wrong token"));
        }
        let file = |name: &str, text: &str| v1::CollectedFile {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let also = request.into_inner().also;
        let own = [
            file("config.toml", "name = \"n1\""),
            file("../../escape", "the token is right, and it leaked"),
        ];
        Ok(Response::new(v1::LocalCollectReply {
            files: also.into_iter().chain(own).collect(),
            problems: vec!["pg_controldata: no answer".to_owned()],
        }))
    }

    async fn create_backup(
        &self,
        _request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        Err(Status::failed_precondition("no repository"))
    }

    async fn list_backups(
        &self,
        _request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsReply>, Status> {
        Err(Status::failed_precondition("no repository"))
    }

    async fn local_leave(
        &self,
        _: Request<v1::LocalLeaveRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        change("left")
    }
}

#[tonic::async_trait]
impl Planned for Fake {
    async fn schedule(
        &self,
        request: Request<v1::ScheduleRequest>,
    ) -> Result<Response<v1::ScheduleReply>, Status> {
        let bearer = token(&request);
        let asked = request.into_inner();
        let what = format!("{:?} at {} dry_run={}", asked.work, asked.at, asked.dry_run);
        self.asked
            .lock()
            .expect("not poisoned")
            .push((what, bearer));
        if asked.at == "tomorrow" {
            return Err(Status::invalid_argument("at: `tomorrow`: unreadable"));
        }
        let schedule = v1::Schedule {
            id: asked.request_id,
            due: asked.at,
            text: "what was asked".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(v1::ScheduleReply {
            schedule: Some(schedule),
            notes: vec!["n2 would become primary".to_owned()],
        }))
    }

    async fn begin_maintenance(
        &self,
        request: Request<v1::BeginMaintenanceRequest>,
    ) -> Result<Response<v1::MaintenanceReply>, Status> {
        let bearer = token(&request);
        let asked = request.into_inner();
        self.asked
            .lock()
            .expect("not poisoned")
            .push((format!("{asked:?}"), bearer));
        if asked.member == "n1" {
            return Err(Status::failed_precondition(
                "n1 is the primary: hand over first",
            ));
        }
        Ok(Response::new(v1::MaintenanceReply {
            maintenance: Some(maintained(&asked.member)),
        }))
    }

    async fn end_maintenance(
        &self,
        request: Request<v1::EndMaintenanceRequest>,
    ) -> Result<Response<v1::MaintenanceReply>, Status> {
        let bearer = token(&request);
        let asked = request.into_inner();
        self.asked
            .lock()
            .expect("not poisoned")
            .push((format!("{asked:?}"), bearer));
        Ok(Response::new(v1::MaintenanceReply {
            maintenance: Some(maintained(&asked.member)),
        }))
    }

    async fn unschedule(
        &self,
        request: Request<v1::UnscheduleRequest>,
    ) -> Result<Response<v1::UnscheduleReply>, Status> {
        let bearer = token(&request);
        let asked = request.into_inner();
        let what = format!("{:?}", asked.what);
        self.asked
            .lock()
            .expect("not poisoned")
            .push((what, bearer));
        match asked.what {
            Some(v1::unschedule_request::What::Switchover(_)) => {
                Err(Status::not_found("no switchover is scheduled"))
            }
            _ => Ok(Response::new(v1::UnscheduleReply::default())),
        }
    }
}

fn maintained(member: &str) -> v1::Maintenance {
    v1::Maintenance {
        member: member.to_owned(),
        since_unix_ms: 1_795_000_000_000,
        until_unix_ms: 1_795_003_600_000,
        by: "root@db2".to_owned(),
    }
}

async fn serve(fake: Fake) -> SocketAddr {
    serve_with(tonic::transport::Server::builder(), fake).await
}

async fn serve_with(mut server: tonic::transport::Server, fake: Fake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(
        server
            .add_service(AdminServer::new(fake.clone()))
            .add_service(PlannedServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    address
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port")
        .local_addr()
        .expect("an address")
}

async fn clusterctl(endpoints: &[SocketAddr], token: Option<&str>, words: &[&str]) -> Output {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_clusterctl"));
    let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut command = tokio::process::Command::new(program);
    command
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("CLUSTERCTL_ENDPOINTS", list.join(","))
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    if let Some(token) = token {
        command.env("CLUSTERCTL_TOKEN", token);
    }
    tokio::time::timeout(Duration::from_secs(60), command.output())
        .await
        .expect("ends within a minute")
        .expect("runs")
}

fn step(step: v1::RequestStep, text: &str) -> Result<v1::AskProgress, Status> {
    Ok(v1::AskProgress {
        step: step.into(),
        text: text.to_owned(),
        ..Default::default()
    })
}

fn assert_ended(output: &Output, code: i32, stderr: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(stderr), "`{stderr}` in `{said}`");
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn any_member_that_answers_will_do() {
    let status = v1::Status {
        cluster: "main".to_owned(),
        ..Default::default()
    };
    let deaf = serve(Fake {
        is_deaf: true,
        ..Fake::default()
    })
    .await;
    let good = serve(Fake {
        status,
        ..Fake::default()
    })
    .await;
    let output = clusterctl(&[nobody().await, deaf, good], None, &["list", "-o", "tsv"]).await;
    assert_ended(&output, 0, "");
    assert!(
        stdout(&output).starts_with("Cluster\tMember\tHost\tRole"),
        "{}",
        stdout(&output)
    );
}

#[tokio::test]
async fn nobody_there_is_exit_code_4() {
    let output = clusterctl(&[nobody().await], None, &["status"]).await;
    assert_ended(&output, 4, "no member answered");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_dangerous_verb_without_terminal_and_yes_is_a_usage_error() {
    for words in [
        vec!["switchover"],
        vec!["failover", "--to", "n2"],
        vec!["restart", "n1"],
        vec!["reinit", "n2"],
        vec!["pause"],
        vec!["members", "replace", "n2"],
        vec!["local", "leave"],
    ] {
        // Nobody listens: the question comes before anything is sent.
        let output = clusterctl(&[nobody().await], Some("right"), &words).await;
        assert_ended(&output, 2, "--yes");
    }
}

#[tokio::test]
async fn a_switchover_is_followed_to_its_end() {
    let fake = Fake::default().asks(Ok(vec![
        step(v1::RequestStep::Accepted, ""),
        step(v1::RequestStep::Drain, "waiting for n2"),
        step(v1::RequestStep::Done, "n2 is primary in epoch 5"),
    ]));
    let address = serve(fake.clone()).await;
    let output = clusterctl(&[address], Some("right"), &["switchover", "--yes"]).await;
    assert_ended(&output, 0, "drain: waiting for n2");
    assert_eq!(stdout(&output), "Done: n2 is primary in epoch 5\n");
    assert_eq!(fake.asked()[0].1, "Bearer right");
}

#[tokio::test]
async fn a_time_makes_a_schedule_of_it_and_now_does_not() {
    let fake = Fake::default().asks(Ok(vec![step(v1::RequestStep::Done, "n2 is primary")]));
    let address = serve(fake.clone()).await;
    let run = async |words: &[&str]| {
        let words = [words, &["--yes"]].concat();
        clusterctl(&[address], Some("right"), &words).await
    };
    let now = run(&["switchover", "--scheduled", "now"]).await;
    assert_ended(&now, 0, "");
    let at = "2999-12-31T23:00:00+01:00";
    let then = run(&["switchover", "--candidate", "n2", "--scheduled", at]).await;
    assert_ended(&then, 0, "");
    assert!(
        stdout(&then).starts_with("Scheduled: what was asked at 2999-12-31T23:00:00+01:00\n"),
        "{}",
        stdout(&then)
    );
    let restart = [
        "restart",
        "n2",
        "n3",
        "--scheduled",
        at,
        "--role",
        "replica",
        "--limit",
        "5min",
        "--dry-run",
    ];
    assert_ended(&run(&restart).await, 0, "");
    let bad = run(&["switchover", "--scheduled", "tomorrow"]).await;
    assert_ended(&bad, 3, "unreadable");
    let asked = fake.asked();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked[1].0.contains(r#"to: "n2""#), "{}", asked[1].0);
    for (place, member) in [(2, "n2"), (3, "n3")] {
        let what = &asked[place].0;
        for words in [
            &format!(r#"member: "{member}", role: "replica""#),
            "limit_ms: 300000",
            "dry_run=true",
        ] {
            assert!(what.contains(words), "{words}: {what}");
        }
    }
    assert!(asked.iter().all(|(_, bearer)| bearer == "Bearer right"));
}

#[tokio::test]
async fn what_is_scheduled_is_flushed_in_either_order_of_words() {
    let fake = Fake::default();
    let address = serve(fake.clone()).await;
    for words in [["flush", "restart", "n2"], ["flush", "n2", "restart"]] {
        let output = clusterctl(&[address], Some("right"), &words).await;
        assert_ended(&output, 0, "");
        assert!(stdout(&output).starts_with("Taken back"), "{words:?}");
    }
    let none = clusterctl(&[address], Some("right"), &["flush", "switchover"]).await;
    assert_ended(&none, 3, "no switchover is scheduled");
    let usage = clusterctl(&[address], Some("right"), &["flush", "restart"]).await;
    assert_ended(&usage, 2, "which member");
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn maintenance_is_begun_when_no_rule_names_the_member_any_more() {
    let status = v1::Status {
        maintenance: vec![maintained("n2"), maintained("n3")],
        rules: vec![v1::Rule {
            id: 4,
            members: vec!["n3".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let fake = Fake {
        status,
        ..Fake::default()
    };
    let address = serve(fake.clone()).await;
    let run = async |words: &[&str]| {
        let words = [&["maintenance"], words].concat();
        clusterctl(&[address], Some("right"), &words).await
    };
    let spared = run(&["on", "n2", "--for", "2h", "--reason", "a new disk"]).await;
    assert_ended(&spared, 0, "");
    assert!(
        stdout(&spared).starts_with("n2 may be taken away until "),
        "{}",
        stdout(&spared)
    );
    let needed = run(&["on", "n3", "--timeout", "1s"]).await;
    assert_ended(&needed, 5, "commits may be confirmed by n3 (rule 4)");
    let primary = run(&["on", "n1"]).await;
    assert_ended(&primary, 3, "n1 is the primary");
    let ended = run(&["off", "n2"]).await;
    assert_ended(&ended, 0, "");
    assert_eq!(stdout(&ended), "Ended: maintenance of n2\n");
    let dry = run(&["on", "n2", "--force", "--dry-run"]).await;
    assert_ended(&dry, 0, "");
    assert!(stdout(&dry).contains("Nothing was changed"));
    let asked = fake.asked();
    assert_eq!(asked.len(), 5, "{asked:?}");
    for words in ["for_s: 7200", "a new disk"] {
        assert!(asked[0].0.contains(words), "{words}: {}", asked[0].0);
    }
    assert!(asked[4].0.contains("force: true"), "{}", asked[4].0);
    assert!(asked.iter().all(|(_, bearer)| bearer == "Bearer right"));
}

#[tokio::test]
async fn members_that_are_not_as_wanted_are_left_out_of_a_restart() {
    let member = |name: &str, role: v1::Role, version, pending_restart| v1::MemberStatus {
        name: name.to_owned(),
        role: role.into(),
        server_version: Some(version),
        pending_restart,
        ..Default::default()
    };
    let status = v1::Status {
        members: vec![
            member("n1", v1::Role::Primary, 150_020, true),
            member("n2", v1::Role::SyncStandby, 150_021, true),
            member("n3", v1::Role::Standby, 150_020, false),
        ],
        ..Default::default()
    };
    let all = ["restart", "n1", "n2", "n3", "--yes"];
    for (conditions, fits, left_out) in [
        (
            &["--role", "replica", "--if-pending"][..],
            1,
            "n1 is primary, not replica",
        ),
        (
            &["--pg-version", "15.21"],
            2,
            "n2 does not run a version below 15.21",
        ),
        (
            &["--role", "standby_leader"],
            0,
            "n3 is replica, not standby_leader",
        ),
    ] {
        let mut fake = Fake {
            status: status.clone(),
            ..Fake::default()
        };
        for _ in 0..fits {
            fake = fake.asks(Ok(vec![step(v1::RequestStep::Done, "restarted")]));
        }
        let address = serve(fake.clone()).await;
        let words = [&all[..], conditions].concat();
        let output = clusterctl(&[address], Some("right"), &words).await;
        assert_ended(&output, 0, left_out);
        assert_eq!(fake.asked().len(), fits, "{conditions:?}");
    }
    let address = serve(Fake::default()).await;
    let words = [&all[..], &["--pg-version", "9.6"]].concat();
    let output = clusterctl(&[address], Some("right"), &words).await;
    assert_ended(
        &output,
        2,
        "--pg-version: Invalid PostgreSQL version format",
    );
}

#[tokio::test]
async fn an_answer_cut_short_is_asked_for_again_under_the_same_id() {
    let fake = Fake::default()
        .asks(Ok(vec![step(v1::RequestStep::Accepted, "")]))
        .asks(Ok(vec![step(v1::RequestStep::Done, "n2 is primary")]));
    let address = serve(fake.clone()).await;
    let output = clusterctl(
        &[address],
        Some("right"),
        &["switchover", "--yes", "-o", "json"],
    )
    .await;
    assert_ended(&output, 0, "");
    let asked = fake.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].0, asked[1].0, "the same request");
    assert!(
        stdout(&output).contains("\"step\": \"done\""),
        "{}",
        stdout(&output)
    );
}

#[tokio::test]
async fn every_ending_has_its_code() {
    let failed = Fake::default().asks(Ok(vec![step(
        v1::RequestStep::Failed,
        "n2 did not catch up; n1 stays primary",
    )]));
    let output = clusterctl(
        &[serve(failed).await],
        Some("right"),
        &["switchover", "--yes"],
    )
    .await;
    assert_ended(&output, 7, "n1 stays primary");

    let refused = Fake::default().asks(Err(Status::failed_precondition("there is no standby")));
    let output = clusterctl(
        &[serve(refused).await],
        Some("right"),
        &["switchover", "--yes"],
    )
    .await;
    assert_ended(&output, 3, "there is no standby");

    let open = || {
        Ok(vec![
            step(v1::RequestStep::Drain, "waiting"),
            Err(Status::deadline_exceeded("late")),
        ])
    };
    let unknown = Fake::default().asks(open());
    let output = clusterctl(
        &[serve(unknown).await],
        Some("right"),
        &["switchover", "--yes"],
    )
    .await;
    assert_ended(&output, 5, "clusterctl cancel");

    let address = serve(Fake::default()).await;
    let output = clusterctl(&[address], Some("wrong"), &["pause", "--yes"]).await;
    assert_ended(&output, 6, "wrong token");
    let output = clusterctl(&[address], None, &["pause", "--yes"]).await;
    assert_ended(&output, 6, "--token-file");
    let output = clusterctl(&[address], Some("right"), &["pause", "--yes"]).await;
    assert_ended(&output, 0, "");
    assert_eq!(stdout(&output), "paused\n");
    let output = clusterctl(&[address], Some("right"), &["resume"]).await;
    assert_ended(&output, 5, "nobody knows yet");
    let output = clusterctl(&[address], None, &["local", "may-restart"]).await;
    assert_ended(&output, 3, "n3 is down");
    let output = clusterctl(&[address], None, &["dsn", "--role", "primary"]).await;
    assert_ended(&output, 3, "there is no primary now");
    let output = clusterctl(&[address], None, &["wait", "--healthy", "--timeout", "1s"]).await;
    assert_ended(&output, 5, "a primary that accepts writes");
    let output = clusterctl(&[address], None, &["wait"]).await;
    assert_ended(&output, 2, "--healthy");
}

#[tokio::test]
async fn a_dry_run_asks_nothing_of_the_operator_and_shows_the_notes() {
    let progress = v1::AskProgress {
        text: "n1 would hand over to n2".to_owned(),
        notes: vec!["1 prepared transaction on n1".to_owned()],
        ..Default::default()
    };
    let fake = Fake::default().asks(Ok(vec![Ok(progress)]));
    let words = ["switchover", "--dry-run"];
    let output = clusterctl(&[serve(fake).await], Some("right"), &words).await;
    assert_ended(&output, 0, "");
    let text = stdout(&output);
    assert!(
        text.contains("1 prepared transaction") && text.contains("Nothing was changed"),
        "{text}"
    );
}

#[tokio::test]
async fn settings_that_lower_durability_need_a_yes_and_others_do_not() {
    let fake = Fake::default();
    let address = serve(fake.clone()).await;
    let set = async |words: &[&str]| {
        let all = [&["settings", "set"], words].concat();
        clusterctl(&[address], Some("right"), &all).await
    };
    let lower = set(&["mode=async"]).await;
    assert_eq!(lower.status.code(), Some(2));
    let why = String::from_utf8_lossy(&lower.stderr).into_owned();
    assert!(why.contains("--yes"), "{why}");
    let asked = fake.asked();
    assert_eq!(asked.len(), 1, "only a dry run was sent: {asked:?}");
    assert!(asked[0].0.ends_with("dry_run=true"), "{asked:?}");

    let sure = set(&["mode=async", "--yes", "--reason", "cheap disks"]).await;
    assert_eq!(sure.status.code(), Some(0));
    let asked = fake.asked();
    let (what, token) = asked.last().expect("asked");
    assert!(what.ends_with(": cheap disks dry_run=false"), "{what}");
    assert_eq!(token, "Bearer right");

    let higher = set(&["mode=sync"]).await;
    assert_eq!(higher.status.code(), Some(0));
    let out = String::from_utf8_lossy(&higher.stdout).into_owned();
    assert!(out.starts_with("Changed:\n  mode changes\n"), "{out}");
    let wrong = set(&["mode"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(fake.asked().len(), 4, "nothing was sent for that");
}

#[tokio::test]
async fn data_is_on_stdout_alone() {
    let output = clusterctl(&[serve(Fake::default()).await], None, &["dsn"]).await;
    assert_ended(&output, 0, "");
    assert_eq!(stdout(&output), "host=a,b\n");
    assert!(output.stderr.is_empty());
}

#[tokio::test]
async fn a_unit_whose_daemon_is_gone_has_nothing_to_leave() {
    let words = ["local", "leave", "--unit", "clusterd.service"];
    let output = clusterctl(&[nobody().await], None, &words).await;
    assert_ended(&output, 0, "nothing to hand over");
}

#[tokio::test]
async fn tls_is_spoken_only_with_members_that_prove_who_they_are() {
    let made =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let other =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let identity =
        tonic::transport::Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let server = tonic::transport::Server::builder()
        .tls_config(tls)
        .expect("TLS");
    let address = serve_with(server, Fake::default()).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path.display().to_string()
    };
    let (right, wrong) = (
        path("right.pem", made.cert.pem()),
        path("wrong.pem", other.cert.pem()),
    );
    let output = clusterctl(&[address], None, &["--tls-ca", &right, "dsn"]).await;
    assert_ended(&output, 0, "");
    let output = clusterctl(&[address], None, &["--tls-ca", &wrong, "dsn"]).await;
    assert_ended(&output, 4, "no member answered");
    let output = clusterctl(&[address], None, &["dsn"]).await;
    assert_ended(&output, 4, "no member answered");
}

/// Names and texts in a bundle.
fn unpacked(file: &std::path::Path) -> Vec<(String, String)> {
    use std::io::Read as _;
    let file = std::fs::File::open(file).expect("written");
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).expect("zstd"));
    let entries = archive.entries().expect("tar").map(|entry| {
        let mut entry = entry.expect("whole");
        let path = entry.path().expect("a path").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        (path, text)
    });
    entries.collect()
}

#[tokio::test]
async fn a_bundle_names_who_is_missing_and_is_made_without_a_token_too() {
    use std::os::unix::fs::PermissionsExt as _;
    let gone = nobody().await;
    let member = |name: &str, peer: &str| v1::MemberStatus {
        name: name.to_owned(),
        addresses: Some(v1::Addresses {
            peer: peer.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = v1::Status {
        cluster: "main".to_owned(),
        answered_by: "n1".to_owned(),
        members: vec![member("n1", ""), member("n2", &gone.to_string())],
        ..Default::default()
    };
    let address = serve(Fake {
        status,
        ..Fake::default()
    })
    .await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let made = async |token, name: &str| {
        let path = path(name).display().to_string();
        clusterctl(&[address], token, &["bundle", &path, "-o", "json"]).await
    };

    let output = made(Some("right"), "one.tar.zst").await;
    assert_ended(&output, 0, "n2 did not answer");
    let mode = std::fs::metadata(path("one.tar.zst"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let found = unpacked(&path("one.tar.zst"));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let files = [
        "one/README.txt",
        "one/members/n1/status.json",
        "one/members/n1/history.json",
        "one/members/n1/settings.json",
        "one/members/n1/explain.txt",
        "one/members/n1/config.toml",
        "one/members/n1/.._.._escape",
    ];
    assert_eq!(names, files);
    assert!(
        found[0].1.contains("n1: pg_controldata: no answer"),
        "{}",
        found[0].1
    );
    assert_eq!(found[6].1, "the token is ***, and it leaked");

    let output = made(None, "two.tar.zst").await;
    assert_ended(&output, 0, "config, log and control data are missing");
    assert_eq!(unpacked(&path("two.tar.zst")).len(), 5);

    let again = made(Some("right"), "one.tar.zst").await;
    assert_ended(&again, 2, "exists already");
    assert_ended(&made(None, "one.zip").await, 2, "ends in .tar.zst");
    let output = clusterctl(&[gone], None, &["bundle"]).await;
    assert_ended(&output, 4, "no member answered");
}
