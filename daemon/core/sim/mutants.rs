//! Worlds made wrong on purpose: each must be caught, by the property that is there for it.

use crate::kinds::Kind;
use crate::mistakes::Mutant;
use crate::schedules::run;

/// In so many schedules a mutant must be caught.
const MUTANT_SCHEDULES: u64 = 400;

/// A world that is wrong must be caught, by the property that is there for it.
fn must_be_caught(mutant: Mutant, properties: &[&str]) {
    must_be_caught_in(Kind::ASYNC, mutant, properties);
}

fn must_be_caught_in(kind: Kind, mutant: Mutant, properties: &[&str]) {
    must_be_caught_within(MUTANT_SCHEDULES, kind, mutant, properties);
}

fn must_be_caught_within(schedules: u64, kind: Kind, mutant: Mutant, properties: &[&str]) {
    let mut seen = Vec::new();
    for seed in 1..=schedules {
        let outcome = run(kind, seed, mutant, false);
        if let Some(first) = outcome.violations.first() {
            if properties.iter().any(|property| first.contains(property)) {
                println!(
                    "{mutant:?} is caught by seed {seed} of {}: {first:.150}",
                    kind.word()
                );
                return;
            }
            seen.push(first.clone());
        }
    }
    panic!("{mutant:?} survives {schedules} schedules; other violations: {seen:?}");
}

#[test]
fn a_guard_that_never_kills_is_caught() {
    must_be_caught(Mutant::GuardNeverKills, &["S3:"]);
}

#[test]
fn a_grant_without_waiting_is_caught() {
    must_be_caught(Mutant::GrantWithoutWaiting, &["S4:"]);
}

#[test]
fn a_new_leader_that_does_not_wait_is_caught() {
    must_be_caught(Mutant::NewLeaderDoesNotWait, &["S4:"]);
}

#[test]
fn a_leader_that_answers_without_a_quorum_is_caught() {
    must_be_caught(Mutant::LeaderAnswersAlone, &["S3:", "S4:"]);
}

#[test]
fn a_promotion_without_a_durable_used_is_caught() {
    must_be_caught(Mutant::PromoteWithoutUsed, &["S2:"]);
}

#[test]
fn a_receiver_that_outlives_the_seal_is_caught() {
    must_be_caught(Mutant::ReceiverSurvivesDetach, &["S7:", "L1:"]);
}

#[test]
fn a_start_without_the_signal_is_caught() {
    must_be_caught(Mutant::StartWithoutSignal, &["S10:"]);
}

#[test]
fn a_primary_that_opens_before_activation_is_caught() {
    must_be_caught(Mutant::OpenBeforeActivation, &["S10:"]);
}

#[test]
fn a_clone_from_anybody_is_caught() {
    must_be_caught(Mutant::CloneFromAnybody, &["S11:"]);
}

#[test]
fn a_cluster_that_never_takes_over_is_caught() {
    must_be_caught(Mutant::NobodyTakesOver, &["L1:"]);
}

#[test]
fn a_server_that_acknowledges_alone_is_caught() {
    must_be_caught_in(Kind::SYNC, Mutant::AcknowledgesAlone, &["S5:", "S6:"]);
}

#[test]
fn a_disk_that_lies_is_caught() {
    must_be_caught_in(Kind::SYNC, Mutant::DiskLies, &["S5:", "S6:", "S8:"]);
}

#[test]
fn a_receiver_that_outlives_the_seal_is_caught_in_sync_too() {
    must_be_caught_in(
        Kind::SYNC,
        Mutant::ReceiverSurvivesDetach,
        &["S5:", "S6:", "S7:"],
    );
}

#[test]
fn a_server_that_acknowledges_alone_is_caught_in_strict_too() {
    must_be_caught_in(Kind::STRICT, Mutant::AcknowledgesAlone, &["k_min:"]);
}

#[test]
fn a_strict_cluster_that_degrades_is_caught() {
    must_be_caught_in(Kind::STRICT, Mutant::StrictDegrades, &["k_min:"]);
}

#[test]
fn a_lease_in_place_of_the_blocking_seals_is_caught() {
    let properties = ["S5:", "S6:"];
    must_be_caught_in(Kind::SYNC, Mutant::LeaseReplacesBlocking, &properties);
    must_be_caught_in(Kind::SYNC_JUMPS, Mutant::LeaseReplacesBlocking, &properties);
    must_be_caught_in(
        Kind::STRICT_JUMPS,
        Mutant::LeaseReplacesBlocking,
        &properties,
    );
}

/// What jumping clocks are simulated for: this design is right as long as they are.
#[test]
fn seals_that_trust_the_lease_are_caught_when_clocks_jump_and_only_then() {
    let properties = ["S5:", "S6:"];
    // A Grant mostly waits for all that are heard, so the clock alone seldom decides.
    let (kind, mutant) = (Kind::SYNC_JUMPS, Mutant::SealsTrustTheLease);
    must_be_caught_within(10 * MUTANT_SCHEDULES, kind, mutant, &properties);
    for seed in 1..=MUTANT_SCHEDULES {
        let outcome = run(Kind::SYNC, seed, Mutant::SealsTrustTheLease, false);
        let lost = outcome
            .violations
            .iter()
            .find(|text| properties.iter().any(|property| text.contains(property)));
        assert_eq!(lost, None, "seed {seed}: nothing but clocks went wrong");
    }
}
