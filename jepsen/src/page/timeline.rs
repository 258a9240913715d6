//! The run as a picture: a lane for each member with its reigns, what it acknowledged, and what was done to
//! it; and over all lanes the times in which nobody acknowledged anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Page, escaped};

/// Units of the picture.
const WIDTH: f64 = 1060.0;
const LEFT: f64 = 50.0;
const LANE: f64 = 64.0;
const TOP: f64 = 22.0;
/// Rows are counted in so many columns.
const COLUMNS: usize = 300;
/// A gap is shown from here on.
const GAP: Duration = Duration::from_millis(500);

/// From the first acknowledged row to the last.
struct Scale {
    from: Duration,
    to: Duration,
}

impl Scale {
    fn x(&self, at: Duration) -> f64 {
        let whole = self.to.saturating_sub(self.from).as_secs_f64().max(0.001);
        let part = at.clamp(self.from, self.to).saturating_sub(self.from);
        LEFT + (WIDTH - LEFT) * part.as_secs_f64() / whole
    }

    fn column(&self, at: Duration) -> usize {
        let whole = self.to.saturating_sub(self.from).as_nanos().max(1);
        let part = at.saturating_sub(self.from).as_nanos() * COLUMNS as u128 / whole;
        usize::try_from(part).map_or(COLUMNS - 1, |it| it.min(COLUMNS - 1))
    }
}

/// The picture.
pub fn svg(page: &Page) -> String {
    let rows = &page.set.rows;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return "<p>Nothing was acknowledged.</p>".to_owned();
    };
    let scale = Scale {
        from: first.acknowledged,
        to: last.acknowledged,
    };
    let height = TOP + LANE * page.members.len() as f64 + 26.0;
    let mut drawn = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Reigns, acknowledged rows and \
         faults of each member over time\">\n"
    );
    drawn += &outages(page, &scale, height);
    for (place, (name, address)) in page.members.iter().enumerate() {
        let top = TOP + LANE * place as f64;
        let base = top + LANE - 8.0;
        let _ = writeln!(
            drawn,
            "<g><text x=\"0\" y=\"{base:.0}\">{}</text>\
             <line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{base:.0}\" y2=\"{base:.0}\"/>",
            escaped(name)
        );
        drawn += &reigns(page, &scale, address, top);
        drawn += &faults(page, &scale, name, top);
        drawn += "</g>\n";
    }
    drawn += &seconds(&scale, height);
    drawn
        + "</svg>\n<p>A block is a reign (the number is its timeline), the bars in it are \
             acknowledged rows. The thin bars above are faults of that member. Shaded: nobody \
             acknowledged anything for half a second or longer.</p>"
}

fn outages(page: &Page, scale: &Scale, height: f64) -> String {
    let mut drawn = String::new();
    for pair in page.set.rows.windows(2) {
        let (from, to) = (pair[0].acknowledged, pair[1].acknowledged);
        if to.saturating_sub(from) < GAP {
            continue;
        }
        let (x, width) = (scale.x(from), scale.x(to) - scale.x(from));
        let _ = writeln!(
            drawn,
            "<rect class=\"outage\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{:.0}\"/>\
             <text class=\"dim\" x=\"{x:.1}\" y=\"10\">{:.1} s</text>",
            height - 20.0,
            to.saturating_sub(from).as_secs_f64()
        );
    }
    drawn
}

/// What a member acknowledged, by timeline.
fn reigns(page: &Page, scale: &Scale, address: &str, top: f64) -> String {
    let mut spans: BTreeMap<u32, (Duration, Duration)> = BTreeMap::new();
    let mut columns: BTreeMap<(u32, usize), f64> = BTreeMap::new();
    for row in page.set.rows.iter().filter(|row| row.server == address) {
        let at = row.acknowledged;
        spans.entry(row.timeline).or_insert((at, at)).1 = at;
        *columns.entry((row.timeline, scale.column(at))).or_default() += 1.0;
    }
    let most = columns.values().copied().fold(1.0, f64::max);
    let (base, room) = (top + LANE - 8.0, LANE - 28.0);
    let mut drawn = String::new();
    for (timeline, (from, to)) in spans {
        let colour = if timeline % 2 == 0 { "even" } else { "odd" };
        let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(1.0));
        let _ = writeln!(
            drawn,
            "<rect class=\"reign {colour}\" opacity=\".18\" x=\"{x:.1}\" y=\"{:.0}\" \
             width=\"{width:.1}\" height=\"{room:.0}\"/>\
             <text class=\"dim\" x=\"{:.1}\" y=\"{:.0}\">{timeline}</text>",
            base - room,
            x + 3.0,
            base - room + 12.0
        );
        let step = (WIDTH - LEFT) / COLUMNS as f64;
        let own = columns.iter().filter(|((of, _), _)| *of == timeline);
        for ((_, column), count) in own {
            let tall = (room - 14.0) * count / most;
            let _ = write!(
                drawn,
                "<rect class=\"{colour}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"/>",
                LEFT + step * *column as f64,
                base - tall,
                step * 0.8
            );
        }
    }
    drawn
}

fn faults(page: &Page, scale: &Scale, member: &str, top: f64) -> String {
    let mut drawn = String::new();
    for blow in page.report.blows().iter().filter(|it| it.member == member) {
        let (x, end) = (scale.x(blow.at), scale.x(blow.at + blow.lasted));
        let _ = writeln!(
            drawn,
            "<rect class=\"fault\" x=\"{x:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"4\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\">{:?}</text>",
            top + 13.0,
            (end - x).max(2.0),
            top + 10.0,
            blow.fault
        );
    }
    drawn
}

fn seconds(scale: &Scale, height: f64) -> String {
    let whole = scale.to.saturating_sub(scale.from).as_secs();
    let step = [1, 5, 10, 30, 60, 300, 600, 1800];
    let step = step.into_iter().find(|it| whole / it <= 12).unwrap_or(3600);
    let mut drawn = String::new();
    for second in (0..=whole).step_by(usize::try_from(step).unwrap_or(1)) {
        let x = scale.x(scale.from + Duration::from_secs(second));
        let y = height - 6.0;
        let _ = write!(
            drawn,
            "<text class=\"dim\" x=\"{x:.1}\" y=\"{y:.0}\">{second} s</text>"
        );
    }
    drawn
}
