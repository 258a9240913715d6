//! Operators who change, while everything breaks, who confirms commits: mode, k, k_min, zones, tags.

use cluster_core::change::Command;
use cluster_core::model::settings::Mode;
use cluster_core::model::{Settings, SettingsChange};

use crate::network::{MS, SECOND};
use crate::world::{Event, World};

impl World {
    /// The next change.
    pub fn next_change(&mut self) {
        let Some(may_be_async) = self.changes else {
            return;
        };
        if self.now >= self.plan.until {
            return;
        }
        let pause = self.random.between(300 * MS, 9 * SECOND);
        self.after(pause, Event::Change);
        let place = self.random.index(self.names.len());
        let name = self.names[place].clone();
        let mut change = SettingsChange::default();
        let what = match self.random.below(12) {
            0..3 => {
                change.k = Some(1 + self.random.below(2) as u32);
                "k"
            }
            3..6 => {
                let is_strict = self.truth.newest().settings.mode == Mode::Strict;
                change.mode = Some(if is_strict { Mode::Sync } else { Mode::Strict });
                "mode"
            }
            6 | 7 if may_be_async => {
                change.mode = Some(Mode::Async);
                "mode async"
            }
            6..8 => {
                change.k_min = Some(1 + self.random.below(2) as u32);
                "k_min"
            }
            8 => {
                let zone = ["east", "west", "north"][self.random.index(3)];
                let zone = self.random.chance(700).then(|| zone.to_owned());
                change.zones.insert(name, zone);
                "zones"
            }
            9 => {
                change.nosync.insert(name, Some(self.random.chance(500)));
                "nosync"
            }
            10 => {
                let priority = self.random.below(3) as u32;
                change.sync_priority.insert(name, Some(priority));
                "sync_priority"
            }
            _ => {
                change = self.change_back();
                "back"
            }
        };
        self.coverage.count("change", what);
        self.say_world(|| format!("operator changes {change:?}"));
        self.change_settings(change);
    }

    fn change_settings(&mut self, change: SettingsChange) {
        self.operator(Command::ChangeSettings {
            change: Box::new(change),
            expected: None,
            by: "operator".to_owned(),
        });
    }

    /// What differs from the beginning, undone; the preset stays.
    fn change_back(&self) -> SettingsChange {
        let settings = &self.truth.newest().settings;
        let home = &self.home;
        let zones = self.names.iter().map(|name| {
            let zone = home.zones.get(name).cloned();
            (name.clone(), zone)
        });
        let own = |settings: &Settings| settings.members.keys().cloned().collect::<Vec<_>>();
        SettingsChange {
            mode: Some(home.mode),
            k: Some(home.k),
            k_min: Some(home.k_min),
            preset: None,
            zones: zones.collect(),
            nosync: own(settings).into_iter().map(|it| (it, None)).collect(),
            sync_priority: own(settings).into_iter().map(|it| (it, None)).collect(),
            ..SettingsChange::default()
        }
    }

    /// After the faults: until it is as it was.
    pub fn settle_settings(&mut self) {
        let settings = &self.truth.newest().settings;
        let is_home = settings.durability() == self.home.durability();
        if !is_home || settings.members != self.home.members {
            let back = self.change_back();
            self.change_settings(back);
        }
    }
}
