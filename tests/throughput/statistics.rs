//! The median of paired ratios and its 95 % interval by order statistics: nothing is assumed about
//! how the ratios are distributed.

/// A median and the interval that holds it with 95 % confidence, as far as the number of values
/// allows one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The middle value.
    pub median: f64,
    /// Lower and upper end; none = fewer than six values.
    pub interval: Option<(f64, f64)>,
}

/// Estimates the median of these values; none = no value.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    let median = match sorted.len() % 2 {
        0 => (sorted[middle - 1] + upper) / 2.0,
        _ => *upper,
    };
    let interval = rank(sorted.len()).map(|rank| (sorted[rank - 1], sorted[sorted.len() - rank]));
    Some(Estimate { median, interval })
}

/// The largest r such that the true median lies between the r-th smallest and the r-th largest of `n`
/// values with a probability of at least 95 %: twice P(Binomial(n, ½) < r) is at most 5 %.
fn rank(n: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut below = 0.0;
    let mut rank = 0;
    for hits in 0..n {
        below += term;
        if 2.0 * below > 0.05 {
            break;
        }
        rank = hits + 1;
        term *= (n - hits) as f64 / (hits + 1) as f64;
    }
    (rank > 0).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: tables of the sign test.
    #[test]
    fn ranks_are_those_of_the_sign_test() {
        for (n, wanted) in [
            (5, None),
            (6, Some(1)),
            (15, Some(4)),
            (20, Some(6)),
            (40, Some(14)),
        ] {
            assert_eq!(rank(n), wanted, "{n} values");
        }
    }

    #[test]
    fn one_wild_value_moves_neither_median_nor_interval() {
        let mut values: Vec<f64> = (0..15).map(|n| 1.0 + f64::from(n) / 100.0).collect();
        let before = estimate(&values).expect("values");
        assert!((before.median - 1.07).abs() < 1e-9, "{before:?}");
        values[14] = 100.0;
        assert_eq!(estimate(&values), Some(before));
        assert_eq!(estimate(&[]), None);
        assert_eq!(estimate(&[1.0, 2.0]).expect("two").interval, None);
    }
}
