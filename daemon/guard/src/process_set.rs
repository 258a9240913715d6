//! The rules of deadlines: which epoch a set belongs to, which way its deadline may move, and
//! which epochs are over for good. No processes, no clock: `now` is an argument.
//!
//! DESIGN section 6: the guard takes deadlines only for the epoch of its process set and only
//! forwards; once it began to kill, that epoch is burnt.

use crate::protocol::{Arm, ProcessId, Refusal, RefusalCode, SetStatus};

/// A deadline further away than this is a mistake in the caller's arithmetic (one hour; the longest
/// lease anybody may configure is far below).
const FARTHEST_DEADLINE_NS: u64 = 3_600_000_000_000;

/// One postmaster and everything it started.
#[derive(Debug, Clone)]
pub struct ProcessSet {
    /// Fresh for each start.
    pub id: u64,
    /// None once it ended.
    pub postmaster: Option<ProcessId>,
    /// When it was started.
    pub started_ns: u64,
    /// None for a standby.
    pub armed: Option<Arm>,
}

impl ProcessSet {
    /// For clients.
    pub fn status(&self) -> SetStatus {
        SetStatus {
            set_id: self.id,
            postmaster: self.postmaster,
            started_ns: self.started_ns,
            armed: self.armed,
        }
    }

    /// When this set must be killed.
    pub fn kill_at_ns(&self) -> Option<u64> {
        self.armed.map(|armed| armed.kill_at_ns)
    }
}

/// Epochs that are over; lives as long as the guard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Burnt(Option<u64>);

impl Burnt {
    /// The highest epoch that is over.
    pub fn highest(self) -> Option<u64> {
        self.0
    }

    /// Ends an epoch and every older one.
    pub fn burn(&mut self, epoch: u64) {
        self.0 = Some(self.0.map_or(epoch, |highest| highest.max(epoch)));
    }

    fn covers(self, epoch: u64) -> bool {
        self.0.is_some_and(|highest| epoch <= highest)
    }
}

/// Applies `Arm`; answers the deadline now in force.
///
/// # Errors
/// The epoch is burnt or not the set's, or the deadline makes no sense; nothing changed then.
pub fn arm(set: &mut ProcessSet, burnt: Burnt, wanted: Arm, now_ns: u64) -> Result<Arm, Refusal> {
    let refuse = |code, message| Err(Refusal { code, message });
    if burnt.covers(wanted.epoch) {
        let message = format!(
            "epoch {} is over: epochs up to {} were killed",
            wanted.epoch,
            burnt.highest().unwrap_or(wanted.epoch)
        );
        return refuse(RefusalCode::EpochBurnt, message);
    }
    if let Some(current) = set.armed
        && current.epoch != wanted.epoch
    {
        let message = format!(
            "the set is bound to epoch {}, not {}",
            current.epoch, wanted.epoch
        );
        return refuse(RefusalCode::WrongEpoch, message);
    }
    if wanted.kill_at_ns > wanted.valid_until_ns {
        let message = "the kill would come after the end of the lease".to_owned();
        return refuse(RefusalCode::BadDeadline, message);
    }
    if wanted.kill_at_ns > now_ns.saturating_add(FARTHEST_DEADLINE_NS) {
        let message = "the deadline is more than an hour away".to_owned();
        return refuse(RefusalCode::BadDeadline, message);
    }
    match set.armed {
        // Older or equal: the caller learns what is in force.
        Some(current) if wanted.kill_at_ns <= current.kill_at_ns => Ok(current),
        Some(_) | None if wanted.kill_at_ns <= now_ns => refuse(
            RefusalCode::BadDeadline,
            "the deadline has already passed".to_owned(),
        ),
        Some(_) | None => {
            set.armed = Some(wanted);
            Ok(wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> ProcessSet {
        ProcessSet {
            id: 9,
            postmaster: None,
            started_ns: 1,
            armed: None,
        }
    }

    fn wanted(epoch: u64, kill_at_ns: u64) -> Arm {
        Arm {
            set_id: 9,
            epoch,
            valid_until_ns: kill_at_ns + 10,
            kill_at_ns,
        }
    }

    #[test]
    fn the_first_arm_binds_the_set_to_its_epoch() {
        let mut set = standby();
        assert_eq!(set.kill_at_ns(), None);
        assert_eq!(
            arm(&mut set, Burnt::default(), wanted(3, 100), 50),
            Ok(wanted(3, 100))
        );
        for other in [2, 4] {
            let refusal = arm(&mut set, Burnt::default(), wanted(other, 200), 50);
            assert_eq!(refusal.map_err(|it| it.code), Err(RefusalCode::WrongEpoch));
        }
        assert_eq!(set.kill_at_ns(), Some(100));
    }

    #[test]
    fn a_deadline_moves_only_forwards() {
        let mut set = standby();
        let burnt = Burnt::default();
        assert_eq!(arm(&mut set, burnt, wanted(3, 100), 50), Ok(wanted(3, 100)));
        assert_eq!(arm(&mut set, burnt, wanted(3, 90), 50), Ok(wanted(3, 100)));
        assert_eq!(arm(&mut set, burnt, wanted(3, 120), 50), Ok(wanted(3, 120)));
    }

    #[test]
    fn a_burnt_epoch_and_every_older_one_is_refused_for_every_set() {
        let mut burnt = Burnt::default();
        burnt.burn(5);
        burnt.burn(4);
        for epoch in [4, 5] {
            let refusal = arm(&mut standby(), burnt, wanted(epoch, 100), 50);
            assert_eq!(refusal.map_err(|it| it.code), Err(RefusalCode::EpochBurnt));
        }
        assert!(arm(&mut standby(), burnt, wanted(6, 100), 50).is_ok());
    }

    #[test]
    fn a_deadline_that_makes_no_sense_binds_nothing() {
        let mut set = standby();
        let late = Arm {
            set_id: 9,
            epoch: 1,
            valid_until_ns: 99,
            kill_at_ns: 100,
        };
        let far = wanted(1, 50 + FARTHEST_DEADLINE_NS + 1);
        for senseless in [late, far, wanted(1, 50), wanted(1, 49)] {
            let refusal = arm(&mut set, Burnt::default(), senseless, 50);
            assert_eq!(refusal.map_err(|it| it.code), Err(RefusalCode::BadDeadline));
        }
        assert_eq!(set.armed, None);
    }
}
