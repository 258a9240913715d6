//! A bank's total: whatever is read at once, on whatever member, adds up to what the bank began with, and
//! no account is below nothing. This holds in every mode: what a failover loses, it loses from the end.

use crate::history::{Edn, Kind, Operation};

use super::verdict::Verdict;

/// Checks every read.
pub fn check(operations: &[Operation], total: i64) -> Verdict {
    let is_read = |it: &&Operation| it.f == "read" && it.kind == Kind::Ok;
    let reads: Vec<&Operation> = operations.iter().filter(is_read).collect();
    let mut verdict = Verdict::new("bank", format!("{} reads", reads.len()));
    for read in reads {
        let found = match balances(&read.value) {
            Some(balances) if balances.iter().any(|it| *it < 0) => "negative-balance",
            Some(balances) if balances.iter().sum::<i64>() == total => continue,
            Some(_) => "wrong-total",
            None => "unreadable",
        };
        verdict.note(found, [read.told(), format!("the total is {total}")]);
    }
    verdict
}

fn balances(value: &Edn) -> Option<Vec<i64>> {
    let Edn::Map(accounts) = value else {
        return None;
    };
    accounts.iter().map(|(_, it)| it.integer()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    fn anomalies(text: &str) -> Vec<String> {
        let found = check(&history(text), 20).violations;
        found.into_iter().map(|it| it.anomaly).collect()
    }

    #[test]
    fn equal_totals_are_good_on_every_member() {
        let good = "0 invoke read nil / 0 ok read {1 10 2 10} / 1 invoke transfer {:from 1 :to 2 :amount 5} / \
                    0 invoke read nil / 0 ok read {1 5 2 15} / 1 info transfer nil / \
                    2 invoke read nil / 2 fail read nil";
        assert!(anomalies(good).is_empty());
    }

    #[test]
    fn another_total_and_a_debt_are_found() {
        assert_eq!(
            anomalies("0 invoke read nil / 0 ok read {1 5 2 10}"),
            ["wrong-total"]
        );
        let debt = "0 invoke read nil / 0 ok read {1 -5 2 25}";
        assert_eq!(anomalies(debt), ["negative-balance"]);
        assert_eq!(
            anomalies("0 invoke read nil / 0 ok read nil"),
            ["unreadable"]
        );
    }
}
