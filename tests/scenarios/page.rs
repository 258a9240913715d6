//! The page at `/ui` in a real browser, and `/events` as it reads them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster_tests::browser::{Browser, Look};
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::Value;

/// How soon the page must show what its member knows.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// The aim is 200; a test on a busy machine asks for less.
const LOADED_WITHIN_MS: f64 = 1000.0;

/// The least contrast of any text with what is behind it, in both schemes of colour. Source: WCAG 2.2,
/// relative luminance and success criterion 1.4.3 (4.5 to 1).
const CONTRAST: &str = "(() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  // Translucent colours count as what they look like over all that is behind them.
  const light = (colours) => {
    for (const colour of colours) {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => element
    ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : [];
  // The mark of a new line fades by an animation, whose colours a canvas cannot read.
  for (const animation of document.getAnimations()) animation.finish();
  let least = [99, ''];
  for (const scheme of ['light', 'dark']) {
    document.documentElement.dataset.theme = scheme;
    for (const element of document.querySelectorAll('body *')) {
      const has = [...element.childNodes].some((it) => it.nodeType === 3 && it.data.trim());
      if (!has || !element.checkVisibility() || element.closest('noscript, script, style')) continue;
      const under = behind(element);
      const [a, b] = [light([...under, getComputedStyle(element).color]), light(under)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < least[0]) least = [ratio, `${scheme}: ${element.tagName} ${element.className} ${element.textContent}`];
    }
  }
  document.documentElement.dataset.theme = 'auto';
  return least;
})()";

/// What an operator may type; a page that took it for HTML would run it.
const NASTY: &str = "<img src=x onerror=\"document.body.dataset.broken=1\"><b>bold</b>";

fn address(cluster: &Cluster, member: usize) -> String {
    format!("http://{}/ui", cluster.members[member].http())
}

/// The state that a member's page is made from.
fn state(cluster: &Cluster, member: usize) -> Value {
    let answer = cluster.get(member, "/ui/state");
    answer.map_or(Value::Null, |answer| answer.json())
}

fn headline(browser: &mut Browser) -> String {
    browser
        .text("#headline")
        .unwrap_or_else(|error| format!("{error:#}"))
}

fn wait_headline(browser: &mut Browser, wanted: &str) -> Result<()> {
    wait_until(
        &format!("headline `{wanted}`"),
        PATIENCE,
        || match headline(browser) {
            seen if seen.contains(wanted) => Ok(()),
            seen => Err(seen),
        },
    )
}

/// Pictures are for docs/, and taken only when somebody says where to.
fn picture(browser: &mut Browser, name: &str, look: Look) -> Result<()> {
    let Some(folder) = std::env::var_os("MATRIARCH_PICTURES") else {
        return Ok(());
    };
    browser.picture(look, &PathBuf::from(folder).join(format!("{name}.png")))
}

fn pictures(browser: &mut Browser, name: &str) -> Result<()> {
    let looks = [
        ("light", 1100, false),
        ("dark", 1100, true),
        ("phone", 390, true),
    ];
    for (word, width, is_dark) in looks {
        let height = None;
        let look = Look {
            width,
            height,
            is_dark,
        };
        picture(browser, &format!("{name}-{word}"), look)?;
    }
    browser.resize(1100, 900)
}

/// When something was first so, on either side.
fn first_seen(seen: &mut Option<Instant>, is_so: bool) {
    if is_so {
        seen.get_or_insert_with(Instant::now);
    }
}

#[test]
fn page_shows_the_cluster_and_a_failover_within_a_second() -> Result<()> {
    let mut cluster = Wanted::new("page").members(3, 0).start()?;
    let old = cluster.wait_healthy(PATIENCE)?;
    let (watched, old_name) = ((old + 1) % 3, cluster.members[old].name.clone());
    let mut browser = Browser::start(&cluster)?;
    browser.resize(1100, 900)?;
    browser.open(&address(&cluster, watched))?;
    wait_headline(&mut browser, &format!("{old_name} takes writes."))?;
    let timing = browser.evaluate(
        "performance.getEntriesByType('navigation').map(it => [it.responseEnd, it.loadEventEnd])[0]",
    )?;
    println!("page answered, and loaded, after {timing} ms (a busy machine)");
    let loaded = timing[1].as_f64().unwrap_or(f64::MAX);
    ensure!(loaded < LOADED_WITHIN_MS, "loaded after {loaded} ms");
    let role = format!("[data-member={old_name}] [data-what=role]");
    wait_until("the primary in the table", PATIENCE, || {
        match browser.text(&role) {
            Ok(seen) if seen.starts_with("primary") => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;

    pictures(&mut browser, "page-calm")?;

    let epoch = state(&cluster, watched)["epoch"].as_u64().unwrap_or(0);
    cluster.members[old].kill_host()?;
    // Both sides are looked at in turn, so each figure is too large by one turn at most.
    let (mut known, mut shown, mut open) = (None, None, None);
    let shows = format!("document.body.textContent.includes('Epoch {}')", epoch + 1);
    wait_until("the failover on the page", PATIENCE, || {
        let now = state(&cluster, watched);
        first_seen(&mut known, now["epoch"].as_u64().unwrap_or(0) > epoch);
        let is_shown = browser.evaluate(&shows).is_ok_and(|it| it == true);
        first_seen(&mut shown, is_shown);
        let primary = now["primary"].as_str().unwrap_or_default().to_owned();
        let is_open = !primary.is_empty() && primary != old_name;
        first_seen(&mut open, is_open);
        let head = headline(&mut browser);
        match (
            shown,
            is_open && head.contains(&format!("{primary} takes writes")),
        ) {
            (Some(_), true) => Ok(()),
            _ => Err(format!("{head}; {}", now["primary"])),
        }
    })?;
    let headed = Instant::now();
    let later = |one: Option<Instant>, other: Option<Instant>| match (one, other) {
        (Some(one), Some(other)) => other.saturating_duration_since(one),
        _ => PATIENCE,
    };
    let (event, head) = (later(known, shown), later(open, Some(headed)));
    println!(
        "after the member knew: new epoch shown {event:?}, new primary in the headline {head:?}"
    );
    ensure!(
        event < SHOWN_WITHIN,
        "the new epoch was shown {event:?} late"
    );
    ensure!(
        head < SHOWN_WITHIN,
        "the new primary was shown {head:?} late"
    );
    pictures(&mut browser, "page-failover")?;
    let least = browser.evaluate(CONTRAST)?;
    println!("least contrast {least}");
    ensure!(least[0].as_f64().unwrap_or(0.0) >= 4.5, "{least}");
    // The measure can fail: grey on grey is found.
    browser.evaluate("document.querySelector('#headline').style.color = '#808080'; 0")?;
    let spoilt = browser.evaluate(CONTRAST)?;
    ensure!(
        spoilt[0].as_f64().is_some_and(|it| it < 4.5),
        "not noticed: {spoilt}"
    );
    cluster.members[old].start()?;
    let new = cluster.wait_healthy(PATIENCE)?;
    let new_name = cluster.members[new].name.clone();

    // What an operator types is text, whatever it is.
    cluster.ctl(&["pause", "--yes", "--reason", NASTY])?;
    wait_headline(&mut browser, "The cluster is paused.")?;
    cluster.ctl(&["resume"])?;
    wait_headline(&mut browser, &format!("{new_name} takes writes."))?;
    let is_text = browser.evaluate(
        "[document.body.dataset.broken, document.querySelectorAll('#events img, #events b').length, \
          document.querySelector('#events').textContent.includes('onerror')].join()",
    )?;
    ensure!(is_text == ",0,true", "{is_text}");
    let errors = browser.errors()?;
    ensure!(errors.is_empty(), "the console says: {errors:#?}");
    drop(browser);
    cluster.finish()
}

#[test]
fn page_says_when_its_member_is_cut_off_and_when_it_is_gone() -> Result<()> {
    let mut cluster = Wanted::new("page-old").members(3, 0).start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let watched = (primary + 1) % 3;
    let name = cluster.members[watched].name.clone();
    let mut browser = Browser::start(&cluster)?;
    browser.open(&address(&cluster, watched))?;
    wait_headline(&mut browser, "takes writes.")?;
    ensure!(browser.text("#banner")?.is_empty(), "nothing is wrong yet");
    let mut wait_banner = |cluster: &Cluster, wanted: &str| {
        wait_until(&format!("banner `{wanted}`"), PATIENCE, || {
            let seen = browser.text("#banner").unwrap_or_default();
            match (seen.is_empty(), seen.contains(wanted)) {
                (true, _) if wanted.is_empty() => Ok(()),
                (false, true) if !wanted.is_empty() => Ok(()),
                _ => Err(format!(
                    "{seen}; {}",
                    state(cluster, watched)["old_because"]
                )),
            }
        })
    };
    // Only the other members are out of its reach; the browser is not.
    cluster.isolate(watched)?;
    wait_banner(&cluster, &format!("Old: {name}"))?;
    cluster.members[watched].heal()?;
    wait_banner(&cluster, "")?;
    cluster.members[watched].kill_daemon()?;
    wait_banner(&cluster, &format!("Connection to {name} lost"))?;
    cluster.members[watched].start()?;
    wait_banner(&cluster, "")?;
    drop(browser);
    cluster.finish()
}
