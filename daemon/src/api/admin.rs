//! gRPC for clusterctl: translate, propose, watch, answer. Any member answers; changes travel to
//! the leader through the same proposal everybody uses.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_backup::Manifest;
use cluster_core::change::{Command, Rejected};
use cluster_core::model::request::Step;
use cluster_core::model::{Assignment, RequestId, RequestKind, RequestOutcome};
use cluster_proto::v1;
use futures_util::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::asks::{Asks, Progress, member_of, new_request_id};
use super::settings::Wish;
use super::topology::{self, DsnRole};
use super::{
    BackupControl, Collected, LocalControl, NO_TOKEN_CONFIGURED, documents, explain, objectives,
    settings, status,
};
use crate::board::{Foresight, LeaseView, ProposeError, TrySettings};
use crate::secret::AdminToken;
use crate::wire;

/// Longest anything is waited for, whatever the client says.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The admin service.
pub struct AdminService {
    /// The board, and the way to propose.
    pub asks: Asks,
    /// The lease.
    pub lease: Arc<dyn LeaseView>,
    /// What can be done to this member alone.
    pub local: Arc<dyn LocalControl>,
    /// What every member's PostgreSQL says to settings.
    pub try_settings: Arc<dyn TrySettings>,
    /// What the cluster would decide.
    pub foresight: Arc<dyn Foresight>,
    /// None without a repository.
    pub backups: Option<Arc<dyn BackupControl>>,
    /// The shared token; none refuses every change.
    pub token: Option<AdminToken>,
}

type Progresses = Pin<Box<dyn Stream<Item = Result<v1::AskProgress, Status>> + Send>>;

fn invalid(error: wire::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(why: &Rejected) -> Status {
    Status::failed_precondition(why.to_string())
}

pub(super) fn not_proposed(error: ProposeError) -> Status {
    match error {
        ProposeError::Rejected(why) => refused(&why),
        error @ ProposeError::NoLeader(_) => Status::unavailable(error.to_string()),
        error @ ProposeError::Unknown => Status::deadline_exceeded(error.to_string()),
    }
}

fn changed(text: impl Into<String>) -> Response<v1::ChangeReply> {
    Response::new(v1::ChangeReply { text: text.into() })
}

const NO_REPOSITORY: &str =
    "this member has no repository of backups (table [backup] of its config file)";

fn backup(manifest: &Manifest) -> v1::Backup {
    v1::Backup {
        id: manifest.id.clone(),
        member: manifest.member.to_string(),
        epoch: manifest.epoch.0,
        timeline: manifest.timeline.0,
        end: manifest.end.to_string(),
        ended_unix_ms: manifest.ended_unix_ms,
        began_unix_ms: manifest.began_unix_ms,
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        major: manifest.major,
    }
}

/// Whether a request shows the cluster's token.
pub(super) fn authorize<T>(token: Option<&AdminToken>, request: &Request<T>) -> Result<(), Status> {
    let Some(token) = token else {
        return Err(Status::permission_denied(NO_TOKEN_CONFIGURED));
    };
    let given = request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| {
            Status::unauthenticated("this needs the cluster's token (see --token-file)")
        })?;
    match super::bearer(given) {
        Some(given) if token.is(given) => Ok(()),
        Some(_) | None => Err(Status::permission_denied(
            "the token is not the one this member was given",
        )),
    }
}

impl AdminService {
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        authorize(self.token.as_ref(), request)
    }

    /// Proposes, or with `dry_run` only says what proposing would answer.
    async fn change(&self, command: Command, dry_run: bool) -> Result<(), Status> {
        if dry_run {
            return self
                .asks
                .rehearse(command)
                .map(|_| ())
                .map_err(|why| refused(&why));
        }
        self.asks.propose(command).await.map_err(not_proposed)
    }
}

/// Sends every step of a request until it ends, the client goes or the time is over.
async fn send_progress(
    asks: Asks,
    kind: RequestKind,
    mut progress: Progress,
    sender: tokio::sync::mpsc::Sender<Result<v1::AskProgress, Status>>,
) {
    loop {
        let request = tokio::select! {
            request = progress.next() => request,
            () = sender.closed() => return,
        };
        let Some(request) = request else {
            let text =
                "timed out; the operation may still be in progress (see `clusterctl status`)";
            let _ = sender.send(Err(Status::deadline_exceeded(text))).await;
            return;
        };
        let board = asks.board();
        let (step, text) = wire::step(&request.step);
        let about = request.target().or_else(|| member_of(&kind));
        let busy = about.and_then(|name| {
            let report = board.reports.get(name).map(|seen| &seen.report);
            report
                .and_then(|report| report.busy.as_ref())
                .map(wire::busy)
        });
        let message = v1::AskProgress {
            request_id: request.id.to_string(),
            step: step.into(),
            to: about.map(ToString::to_string).unwrap_or_default(),
            text,
            notes: Vec::new(),
            epoch: board.state.epoch().0,
            busy,
        };
        let is_over = matches!(request.step, Step::Ended(_));
        if sender.send(Ok(message)).await.is_err() || is_over {
            return;
        }
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        let board = self.asks.board();
        let mut found = status::of(&board, self.lease.as_ref(), self.foresight.as_ref());
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let judged = objectives::of(&board, self.lease.now(), wall.unwrap_or_default());
        found.objectives = objectives::encode(judged);
        Ok(Response::new(found))
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::History>, Status> {
        let board = self.asks.board();
        let limit = match request.into_inner().limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let all = &board.state.history;
        let entries = all[all.len().saturating_sub(limit)..]
            .iter()
            .map(wire::history)
            .collect();
        Ok(Response::new(v1::History { entries }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let name = request.into_inner().member;
        if !name.is_empty() {
            let board = self.asks.board();
            let status = status::of(&board, self.lease.as_ref(), self.foresight.as_ref());
            let member = status.members.iter().find(|it| it.name == name);
            let Some(member) = member else {
                let known: Vec<&str> = status.members.iter().map(|it| it.name.as_str()).collect();
                return Err(Status::failed_precondition(format!(
                    "there is no member {name} (there are: {})",
                    known.join(", ")
                )));
            };
            let lines = explain::member(&status, member);
            return Ok(Response::new(v1::Explanation { lines }));
        }
        let lines = self
            .foresight
            .explain(&self.asks.board())
            .into_iter()
            .map(|(code, text)| v1::explanation::Line { code, text })
            .collect();
        Ok(Response::new(v1::Explanation { lines }))
    }

    async fn get_dsn(&self, request: Request<v1::DsnRequest>) -> Result<Response<v1::Dsn>, Status> {
        let role = match request.into_inner().role.as_str() {
            "" | "any" => DsnRole::Any,
            "primary" => DsnRole::Primary,
            "replica" => DsnRole::Replica,
            other => {
                return Err(Status::invalid_argument(format!(
                    "role: `{other}` is none (expected any, primary or replica)"
                )));
            }
        };
        let board = self.asks.board();
        let dsn = topology::dsn(&board, self.lease.now(), role)
            .ok_or_else(|| Status::unavailable("there is nothing to connect to"))?;
        Ok(Response::new(v1::Dsn {
            dsn,
            epoch: board.state.epoch().0,
        }))
    }

    async fn get_version(
        &self,
        _request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::Version>, Status> {
        let board = self.asks.board();
        Ok(Response::new(v1::Version {
            version: documents::VERSION.to_owned(),
            member: board.me.to_string(),
            server_version: board.own.server_version,
        }))
    }

    async fn local_may_restart(
        &self,
        _request: Request<v1::LocalMayRestartRequest>,
    ) -> Result<Response<v1::LocalMayRestartReply>, Status> {
        let board = self.asks.board();
        let all = topology::members(&board, self.lease.now());
        let (may, text) = match topology::voters(&board, &all).may_restart() {
            Ok(text) => (true, text),
            Err(why) => (false, why),
        };
        Ok(Response::new(v1::LocalMayRestartReply { may, text }))
    }

    async fn get_settings(
        &self,
        _request: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::SettingsReply>, Status> {
        let board = self.asks.board();
        let state = &board.state;
        let priorities = state.databases().map(|(name, _)| v1::SyncPriority {
            member: name.to_string(),
            priority: state.sync_priority(name),
            is_set: state.settings.members.contains_key(name),
        });
        let revisions = state.settings_log.iter().map(wire::settings_revision);
        Ok(Response::new(v1::SettingsReply {
            settings: Some(wire::encode_settings(&state.settings)),
            priorities: priorities.collect(),
            revision: state.settings_revision(),
            rows: wire::settings_rows(&state.settings),
            revisions: revisions.collect(),
        }))
    }

    async fn change_settings(
        &self,
        request: Request<v1::ChangeSettingsRequest>,
    ) -> Result<Response<v1::ChangeSettingsReply>, Status> {
        self.authorize(&request)?;
        let v1::ChangeSettingsRequest {
            assignments,
            by,
            dry_run,
            replaces,
            expected_revision,
            restore_revision,
        } = request.into_inner();
        let assignments: Vec<Assignment> = assignments
            .into_iter()
            .map(|one| Assignment {
                key: one.key,
                value: one.value,
                member: (!one.member.is_empty()).then_some(one.member),
            })
            .collect();
        let wish = match (restore_revision, replaces) {
            (Some(_), _) if !assignments.is_empty() => {
                return Err(Status::invalid_argument(
                    "either assignments or a revision to go back to",
                ));
            }
            (Some(revision), _) => Wish::Restore(revision),
            (None, true) => Wish::Replace(assignments),
            (None, false) => Wish::Assign(assignments),
        };
        let by = match restore_revision {
            Some(revision) => format!("{by} (back to revision {revision})"),
            None => by,
        };
        let now = self.lease.now();
        let tried = self.try_settings.as_ref();
        let planned = settings::plan(&self.asks, tried, now, &wish, expected_revision)
            .await
            .map_err(|problems| Status::failed_precondition(problems.join("\n")))?;
        if !dry_run {
            let done = settings::carry_out(&self.asks, &planned, &by).await;
            done.map_err(not_proposed)?;
        }
        Ok(Response::new(v1::ChangeSettingsReply {
            changes: planned.changes,
            lowers: planned.lowers,
            notes: planned.notes,
            settings: Some(wire::encode_settings(&planned.next)),
            revision: self.asks.board().state.settings_revision(),
        }))
    }

    type AskStream = Progresses;

    async fn ask(
        &self,
        request: Request<v1::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        self.authorize(&request)?;
        let asked = request.into_inner();
        let kind = wire::decode_kind(asked.kind).map_err(invalid)?;
        let expected =
            wire::optional_name("expected_primary", &asked.expected_primary).map_err(invalid)?;
        if let Some(expected) = expected
            && self.asks.holder().as_ref() != Some(&expected)
        {
            return Err(Status::failed_precondition(format!(
                "{expected} is not the primary now (see `clusterctl list`)"
            )));
        }
        let id = match asked.request_id.as_str() {
            "" => new_request_id(),
            id if id.len() > 64 => {
                return Err(Status::invalid_argument("request_id: longer than 64 bytes"));
            }
            id => RequestId(id.to_owned()),
        };
        let command = Command::Ask {
            id: id.clone(),
            kind: kind.clone(),
            by: asked.by,
        };
        self.change(command, asked.dry_run).await?;
        let first = v1::AskProgress {
            request_id: id.to_string(),
            step: v1::RequestStep::Accepted.into(),
            to: member_of(&kind)
                .map(ToString::to_string)
                .unwrap_or_default(),
            epoch: self.asks.board().state.epoch().0,
            ..v1::AskProgress::default()
        };
        if asked.dry_run || asked.wait_ms == 0 {
            let notes = if asked.dry_run {
                {
                    status::notes(
                        &self.asks.board(),
                        self.lease.now(),
                        self.foresight.as_ref(),
                        &kind,
                    )
                }
            } else {
                Vec::new()
            };
            let only = Ok(v1::AskProgress { notes, ..first });
            return Ok(Response::new(Box::pin(tokio_stream::once(only))));
        }
        let limit = Duration::from_millis(u64::from(asked.wait_ms)).min(LONGEST_WAIT);
        let progress = self.asks.watch(id, limit);
        // Steps are few, and a slow reader sees the newest: nothing piles up.
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(send_progress(self.asks.clone(), kind, progress, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let v1::PauseRequest { by, dry_run } = request.into_inner();
        self.change(Command::Pause { by }, dry_run).await?;
        Ok(changed(
            "the cluster takes no automatic action until it is resumed",
        ))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let v1::ResumeRequest { by, dry_run } = request.into_inner();
        self.change(Command::Resume { by }, dry_run).await?;
        Ok(changed("the cluster acts by itself again"))
    }

    async fn replace_member(
        &self,
        request: Request<v1::ReplaceMemberRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let v1::ReplaceMemberRequest {
            member,
            peer,
            by,
            dry_run,
        } = request.into_inner();
        let member = wire::member_name("member", &member).map_err(invalid)?;
        let board = self.asks.board();
        let known = board.state.members.get(&member);
        let peer = match known {
            Some(known) if peer.is_empty() => known.addresses.peer.clone(),
            Some(_) | None => peer,
        };
        if known.is_some() && topology::host_and_port(&peer).is_none() {
            return Err(Status::invalid_argument(format!(
                "peer: `{peer}` is no host:port"
            )));
        }
        let text = format!("{member} may join under a new id from {peer} with an empty store");
        self.change(Command::ReplaceMember { member, peer, by }, dry_run)
            .await?;
        Ok(changed(text))
    }

    async fn cancel_request(
        &self,
        request: Request<v1::CancelRequestRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let v1::CancelRequestRequest { request_id, by } = request.into_inner();
        let outcome = RequestOutcome::Failed {
            why: format!("cancelled by {by}"),
        };
        let text = format!("request {request_id} is taken back");
        self.change(
            Command::End {
                id: RequestId(request_id),
                outcome,
            },
            false,
        )
        .await?;
        Ok(changed(text))
    }

    async fn set_log_level(
        &self,
        request: Request<v1::SetLogLevelRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let level = request.into_inner().level;
        self.local
            .set_log_level(&level)
            .map_err(Status::invalid_argument)?;
        Ok(changed(format!(
            "this member logs at {level} until it is restarted"
        )))
    }

    async fn local_leave(
        &self,
        request: Request<v1::LocalLeaveRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.authorize(&request)?;
        let v1::LocalLeaveRequest { by, wait_ms } = request.into_inner();
        let limit = Duration::from_millis(u64::from(wait_ms)).min(LONGEST_WAIT);
        self.local
            .leave(&by, limit)
            .await
            .map(changed)
            .map_err(Status::failed_precondition)
    }

    async fn local_collect(
        &self,
        request: Request<v1::LocalCollectRequest>,
    ) -> Result<Response<v1::LocalCollectReply>, Status> {
        self.authorize(&request)?;
        let also = request.into_inner().also.into_iter();
        let also = also.map(|file| (file.name, file.text)).collect();
        let Collected { files, problems } = self.local.collect(also).await;
        let files = files
            .into_iter()
            .map(|(name, text)| v1::CollectedFile { name, text });
        Ok(Response::new(v1::LocalCollectReply {
            files: files.collect(),
            problems,
        }))
    }

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        self.authorize(&request)?;
        let by = request.into_inner().by;
        let Some(backups) = &self.backups else {
            return Err(Status::failed_precondition(NO_REPOSITORY));
        };
        let taken = backups.create(&by).await;
        let taken = taken.map_err(Status::failed_precondition)?;
        Ok(Response::new(backup(&taken)))
    }

    async fn list_backups(
        &self,
        _request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsReply>, Status> {
        let Some(backups) = &self.backups else {
            return Err(Status::failed_precondition(NO_REPOSITORY));
        };
        let (repository, found) = backups.list().await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::ListBackupsReply {
            backups: found.iter().map(backup).collect(),
            repository,
        }))
    }
}
