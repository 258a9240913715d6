//! Chains of writes, each begun after the one before was acknowledged: whoever finds a link, on whatever member, finds
//! all older ones afterwards, and at the end none that was acknowledged is missing.

use std::collections::BTreeMap;

use crate::history::{Edn, Kind, Operation};

use super::verdict::Verdict;

/// Chains, with the links that were found.
type Chains = Vec<(i64, Vec<i64>)>;

/// Checks every look at a chain.
pub fn check(operations: &[Operation]) -> Verdict {
    let write = |it: &Operation| match it.value.numbers().as_deref() {
        Some([chain, link]) if it.f == "write" => Some((*chain, *link)),
        _ => None,
    };
    let writes: BTreeMap<(i64, i64), &Operation> = operations
        .iter()
        .filter_map(|it| Some((write(it)?, it)))
        .collect();
    let looks: Vec<(&Operation, Chains)> = operations
        .iter()
        .filter(|it| it.kind == Kind::Ok)
        .filter_map(|it| Some((it, looked(it)?)))
        .collect();
    let chains: usize = looks.iter().map(|(_, chains)| chains.len()).sum();
    let looked_at = format!(
        "{} writes, {} looks at {chains} chains",
        writes.len(),
        looks.len()
    );
    let mut verdict = Verdict::new("sequential", looked_at);
    for (look, chains) in &looks {
        let short = |chain: i64, links: &[i64]| {
            let at = look.completed.unwrap_or(0);
            format!(
                "chain {chain}: {links:?} seen by process {} at {at} ns",
                look.process
            )
        };
        for (chain, links) in chains {
            for link in links {
                let is_sent = writes
                    .get(&(*chain, *link))
                    .is_some_and(|it| it.kind != Kind::Fail && Some(it.invoked) < look.completed);
                if !is_sent {
                    verdict.note("never-written", vec![short(*chain, links)]);
                }
            }
            let newest = links.iter().max().copied().unwrap_or(0);
            if let Some(gap) = (0..newest).find(|link| !links.contains(link)) {
                let told = writes.get(&(*chain, gap)).map(|it| it.told());
                let evidence = [Some(short(*chain, links)), told];
                verdict.note("gap", evidence.into_iter().flatten());
            }
        }
        if look.f != "read-all" {
            continue;
        }
        let has = |(chain, link): &(i64, i64)| {
            let found = chains.iter().find(|(it, _)| it == chain);
            found.is_some_and(|(_, links)| links.contains(link))
        };
        let mut acknowledged = writes.iter().filter(|(_, it)| it.kind == Kind::Ok);
        if let Some((_, lost)) = acknowledged.find(|(place, _)| !has(place)) {
            verdict.note("lost-write", vec![lost.told()]);
        }
    }
    verdict
}

/// The chains of one look, with what was found of them.
fn looked(look: &Operation) -> Option<Chains> {
    let chain = |value: &Edn| match value.elements() {
        Some([chain, links]) => Some((chain.integer()?, links.numbers()?)),
        _ => None,
    };
    match look.f.as_str() {
        "read" => Some(vec![chain(&look.value)?]),
        "read-all" => look.value.elements()?.iter().map(chain).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    fn anomalies(text: &str) -> Vec<String> {
        let found = check(&history(text)).violations;
        found.into_iter().map(|it| it.anomaly).collect()
    }

    const WRITTEN: &str =
        "0 invoke write [3 0] / 0 ok write [3 0] / 0 invoke write [3 1] / 0 ok write [3 1] / ";

    #[test]
    fn chains_may_be_short_where_a_standby_is_behind() {
        for seen in ["[]", "[0]", "[1 0]"] {
            let text = format!("{WRITTEN}1 invoke read [3 nil] / 1 ok read [3 {seen}]");
            assert!(anomalies(&text).is_empty(), "{seen}");
        }
        let all = WRITTEN.to_owned() + "1 invoke read-all nil / 1 ok read-all [[3 [1 0]]]";
        assert!(anomalies(&all).is_empty());
    }

    #[test]
    fn a_gap_is_found() {
        let text = WRITTEN.to_owned() + "1 invoke read [3 nil] / 1 ok read [3 [1]]";
        assert_eq!(anomalies(&text), ["gap"]);
    }

    #[test]
    fn what_is_lost_or_was_never_sent_is_found() {
        let lost = WRITTEN.to_owned() + "1 invoke read-all nil / 1 ok read-all [[3 [0]]]";
        assert_eq!(anomalies(&lost), ["lost-write"]);
        let early = "1 invoke read [3 nil] / 1 ok read [3 [0]] / ".to_owned() + WRITTEN;
        assert_eq!(anomalies(&early), ["never-written"]);
        let failed =
            "0 invoke write [3 0] / 0 fail write [3 0] / 1 invoke read [3 nil] / 1 ok read [3 [0]]";
        assert_eq!(anomalies(failed), ["never-written"]);
    }
}
