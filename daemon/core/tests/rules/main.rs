//! Rules of durability: the commands, the leader's decisions, the primary's steps.

mod armed;
mod backups;
mod bypass;
mod cluster;
mod commands;
mod confirming;
mod decisions;
mod gap;
mod handovers;
mod held;
mod maintenance;
mod rewound;
mod rolling;
mod room;
mod schedules;
mod setter;
mod settings;
mod snapshots;
