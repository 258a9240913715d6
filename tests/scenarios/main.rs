//! Whole clusters, one situation a test: real programs, real PostgreSQL, real network namespaces.
//!
//! `harness_itself` shows that the harness breaks what it says it breaks; `bootstrap` is first and
//! second starts; `failover` is a lost primary; `fencing` is a primary that must not go on;
//! `partition` is each side of each cut; `requests` is what operators ask for, `planned` what they plan; `membership` is
//! witnesses and replaced hosts; `proxy` is HAProxy and libpq as real clients; `bad_input` is what is
//! refused, and that nothing changed; `hooks` is what programs of the operator are told; `majors` is other versions of PostgreSQL; `systemd` is the
//! installed units; `by_hand` is what somebody does to PostgreSQL behind the daemon's back;
//! `snapshots` is a whole cluster as one file, and back on empty hosts; `recovery` is what the cluster does by itself to be
//! sure of its backups;
//! `takeover` is a PostgreSQL that ran before us, `takeover_standbys` its own standbys, `patroni` a
//! whole Patroni cluster that is moved over; `page` is the page at
//! `/ui` in a real browser, `explanations` what the cluster tells of itself, `monitoring` the alerts and the
//! dashboard, and the metrics they rest on; `durability_*` is who confirms a commit: `failover` loses nothing, `standbys` come and go, `strict` lets writes
//! wait, `faults` are processes of PostgreSQL that stand still at a bad moment, `mixture` is one of them
//! while the rule changes, `steps` are daemons that die in the middle of a change, `disk` are disks that stand
//! still, `held` are standbys that confirm and do not replay.

mod backup;
mod backup_schedule;
mod bad_input;
mod bootstrap;
mod by_hand;
mod disaster;
mod drill;
mod durability_disk;
mod durability_failover;
mod durability_faults;
mod durability_held;
mod durability_mixture;
mod durability_put_back;
mod durability_standbys;
mod durability_steps;
mod durability_strict;
mod explanations;
mod failover;
mod fencing;
mod harness_itself;
mod hooks;
mod lost_wal;
mod majors;
mod membership;
mod monitoring;
mod page;
mod parameters;
mod partition;
mod patroni;
mod planned;
mod pooler;
mod proxy;
mod recovery;
mod requests;
mod snapshots;
mod systemd;
mod takeover;
mod takeover_standbys;
