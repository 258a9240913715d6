//! gRPC for planned work.

use std::sync::Arc;

use cluster_core::change::{Command, Rejected};
use cluster_core::model::request::RequestKind;
use cluster_core::model::schedule::{Conditions, Role, Slot, Work, version_number};
use cluster_core::model::{MemberName, RequestId};
use cluster_proto::v1;
use tonic::{Request, Response, Status};

use super::{bound, command, due, known, maintenance, report, wall};
use crate::api::admin::{authorize, not_proposed};
use crate::api::asks::{Asks, new_request_id};
use crate::api::status;
use crate::board::{Board, Foresight, LeaseView, ProposeError};
use crate::secret::AdminToken;
use crate::wire;

/// The service.
pub struct PlannedService {
    /// The board, and the way to propose.
    pub asks: Asks,
    /// This host's clock.
    pub lease: Arc<dyn LeaseView>,
    /// What the cluster would decide.
    pub foresight: Arc<dyn Foresight>,
    /// The shared token; none refuses every change.
    pub token: Option<AdminToken>,
}

/// A name that may be left out; what is wrong with it goes to `problems`.
fn name(what: &str, text: &str, problems: &mut Vec<String>) -> Option<MemberName> {
    if text.is_empty() {
        return None;
    }
    text.parse()
        .map_err(|why| problems.push(format!("{what}: {why}")))
        .ok()
}

fn switchover(asked: &v1::ScheduledSwitchover, problems: &mut Vec<String>) -> Work {
    Work::Switchover {
        from: name("from", &asked.from, problems),
        to: name("to", &asked.to, problems),
    }
}

fn restart(asked: &v1::ScheduledRestart, problems: &mut Vec<String>) -> Option<Work> {
    let member = name("member", &asked.member, problems);
    if asked.member.is_empty() {
        problems.push("member: of which member?".to_owned());
    }
    let role = Role::of(&asked.role);
    if role.is_none() && !asked.role.is_empty() {
        let words = Role::ALL.map(Role::word);
        let role = &asked.role;
        problems.push(format!("role: `{role}` is none of {}", words.join(", ")));
    }
    let mut older_than = None;
    if !asked.older_than.is_empty() {
        match version_number(&asked.older_than) {
            Ok(version) => older_than = Some(version),
            Err(why) => problems.push(format!("version: {why}")),
        }
    }
    let conditions = Conditions {
        role,
        older_than,
        pending: asked.pending,
        limit_ms: (asked.limit_ms > 0).then_some(asked.limit_ms),
        of_unix_ms: None,
    };
    Some(Work::Restart {
        member: member?,
        conditions,
    })
}

fn no_such_member(board: &Board, work: &Work, problems: &mut Vec<String>) {
    for name in work.members() {
        if !board.state.members.contains_key(name) {
            problems.push(Rejected::UnknownMember(name.clone()).to_string());
        }
    }
}

impl PlannedService {
    /// What would stand in its way now.
    fn notes(&self, board: &Board, work: &Work) -> Vec<String> {
        match work {
            Work::Switchover { .. } => {
                let kind = work.kind();
                let now = self.lease.now();
                status::notes(board, now, self.foresight.as_ref(), &kind)
            }
            Work::Restart { member, conditions } => match report(board, member) {
                None => vec![format!("{member} is not heard")],
                Some(report) => {
                    let unmet = cluster_core::decide::schedules::unmet(report, conditions);
                    let told = unmet.into_iter();
                    let mut notes: Vec<String> =
                        told.map(|why| format!("now {member} {why}")).collect();
                    let kind = RequestKind::Restart {
                        member: member.clone(),
                    };
                    let now = self.lease.now();
                    notes.extend(status::notes(board, now, self.foresight.as_ref(), &kind));
                    notes
                }
            },
        }
    }
}

#[tonic::async_trait]
impl v1::planned_server::Planned for PlannedService {
    async fn schedule(
        &self,
        request: Request<v1::ScheduleRequest>,
    ) -> Result<Response<v1::ScheduleReply>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let asked = request.into_inner();
        let board = self.asks.board();
        let mut problems = Vec::new();
        let (work, action) = match &asked.work {
            Some(v1::schedule_request::Work::Switchover(it)) => {
                (Some(switchover(it, &mut problems)), "switchover")
            }
            Some(v1::schedule_request::Work::Restart(it)) => {
                (restart(it, &mut problems), "restart")
            }
            None => {
                problems.push("work: nothing is asked".to_owned());
                (None, "work")
            }
        };
        if let Some(work) = &work {
            no_such_member(&board, work, &mut problems);
        }
        let due = due(&asked.at, wall());
        if let Err(why) = due {
            problems.push(format!("at: `{}`: {}", asked.at, why.sentence(action)));
        }
        if asked.request_id.len() > 64 {
            problems.push("request_id: longer than 64 bytes".to_owned());
        }
        let (Some(work), Ok(due), true) = (work, due, problems.is_empty()) else {
            return Err(Status::invalid_argument(problems.join("\n")));
        };
        let work = bound(&board, work);
        let id = match asked.request_id.as_str() {
            "" => new_request_id(),
            id => RequestId(id.to_owned()),
        };
        let scheduled = v1::Schedule {
            id: id.to_string(),
            work: Some(wire::work(&work)),
            due_unix_ms: due.unix_ms,
            due: due.text.clone(),
            by: asked.by.clone(),
            at_unix_ms: 0,
            text: work.to_string(),
        };
        let notes = self.notes(&board, &work);
        let command = command(id, work, due, asked.replaces, &asked.by);
        if asked.dry_run {
            let checked = self.asks.rehearse(command);
            checked.map_err(|why| Status::failed_precondition(why.to_string()))?;
        } else {
            self.asks.propose(command).await.map_err(not_proposed)?;
        }
        Ok(Response::new(v1::ScheduleReply {
            schedule: Some(scheduled),
            notes,
        }))
    }

    async fn begin_maintenance(
        &self,
        request: Request<v1::BeginMaintenanceRequest>,
    ) -> Result<Response<v1::MaintenanceReply>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let reply = maintenance::begin(&self.asks, &request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn end_maintenance(
        &self,
        request: Request<v1::EndMaintenanceRequest>,
    ) -> Result<Response<v1::MaintenanceReply>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let reply = maintenance::end(&self.asks, &request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn unschedule(
        &self,
        request: Request<v1::UnscheduleRequest>,
    ) -> Result<Response<v1::UnscheduleReply>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let asked = request.into_inner();
        let slot = match asked.what {
            Some(v1::unschedule_request::What::Switchover(true)) => Slot::Switchover,
            Some(v1::unschedule_request::What::RestartOf(member)) => {
                let member = wire::member_name("restart_of", &member);
                Slot::Restart(member.map_err(|why| Status::invalid_argument(why.to_string()))?)
            }
            Some(v1::unschedule_request::What::Switchover(false)) | None => {
                return Err(Status::invalid_argument("what: nothing is named"));
            }
        };
        let schedule = known(&self.asks.board(), &slot).map(wire::schedule);
        let by = asked.by;
        let command = Command::Unschedule { slot, by };
        if asked.dry_run {
            let checked = self.asks.rehearse(command);
            checked.map_err(|why| Status::not_found(why.to_string()))?;
        } else {
            self.asks.propose(command).await.map_err(|why| match why {
                ProposeError::Rejected(why) => Status::not_found(why.to_string()),
                error => not_proposed(error),
            })?;
        }
        Ok(Response::new(v1::UnscheduleReply { schedule }))
    }
}
