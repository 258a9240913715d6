//! Stands in for the parts that exist only once the group has formed: the listeners are open long
//! before that, because forming itself goes over them.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use cluster_core::change::Command;
use cluster_core::model::{MemberName, MemberReport, Settings};

use crate::board::{Propose, ProposeError, Tried, TrySettings};
use crate::exchange::{MergedView, NotLeader, PeerBackend, RenewAnswer, RenewRequest};
use crate::reconcile::backend::Backend;

const NOT_YET: &str = "this member belongs to no cluster yet";

/// The backend, once there is one. Clones are the same.
#[derive(Clone, Default)]
pub struct LateBackend {
    inner: Arc<OnceLock<Arc<Backend>>>,
}

impl LateBackend {
    /// From now on calls reach `backend`.
    pub fn set(&self, backend: Arc<Backend>) {
        // Set once by the runtime; a second call would be a bug and changes nothing.
        let _ = self.inner.set(backend);
    }
}

#[async_trait]
impl Propose for LateBackend {
    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        match self.inner.get() {
            Some(backend) => Propose::propose(backend.as_ref(), command).await,
            None => Err(ProposeError::NoLeader(NOT_YET.to_owned())),
        }
    }
}

#[async_trait]
impl TrySettings for LateBackend {
    async fn try_settings(&self, settings: &Settings) -> Tried {
        match self.inner.get() {
            Some(backend) => backend.try_settings(settings).await,
            None => Tried::default(),
        }
    }
}

#[async_trait]
impl PeerBackend for LateBackend {
    async fn report(&self, report: MemberReport) -> Result<MergedView, NotLeader> {
        match self.inner.get() {
            Some(backend) => backend.report(report).await,
            None => Err(NotLeader {
                leader: None,
                why: NOT_YET.to_owned(),
            }),
        }
    }

    async fn propose(&self, from: MemberName, command: Command) -> Result<(), ProposeError> {
        match self.inner.get() {
            Some(backend) => PeerBackend::propose(backend.as_ref(), from, command).await,
            None => Err(ProposeError::NoLeader(NOT_YET.to_owned())),
        }
    }

    async fn try_parameters(&self, settings: Settings) -> Vec<String> {
        match self.inner.get() {
            Some(backend) => backend.try_parameters(settings).await,
            None => Vec::new(),
        }
    }

    async fn renew(&self, request: RenewRequest) -> RenewAnswer {
        match self.inner.get() {
            Some(backend) => backend.renew(request).await,
            None => RenewAnswer::Refused {
                code: "not-leader".to_owned(),
                newer_epoch: None,
                leader: None,
            },
        }
    }
}
