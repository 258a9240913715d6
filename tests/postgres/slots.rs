//! Slots: made, moved along, dropped, on a primary and on a standby.

use clusterd::postgres::WantedSlot;

use crate::place::{Server, on_every_major};

fn wanted(name: &str) -> WantedSlot {
    WantedSlot {
        name: name.to_owned(),
        reached: None,
    }
}

#[test]
fn members_slots_are_made_moved_along_and_dropped() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        for server in [&a, &b] {
            server.run("SELECT 1").await?;
            let mut slots = vec![wanted("clusterd_b"), wanted("clusterd_c")];
            server.postgres.apply_slots(&slots).await?;
            server.postgres.apply_slots(&slots).await?;
            let query = "SELECT (restart_lsn - '0/0')::int8 FROM pg_replication_slots \
                         WHERE slot_name = 'clusterd_c'";
            let before = server.number(query).await?;
            a.run("CREATE TABLE IF NOT EXISTS t AS SELECT generate_series(1, 10000) AS i")
                .await?;
            let reached = a.flushed().await?;
            b.wait_replayed(reached).await?;
            slots[1].reached = Some(reached);
            server.postgres.apply_slots(&slots).await?;
            let after = server.number(query).await?;
            assert!(after > before, "{after} {before} on {}", server.name);
            server
                .run("SELECT pg_create_physical_replication_slot('somebody_elses')")
                .await?;
            server.postgres.apply_slots(&slots[..1]).await?;
            let names =
                "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
            assert_eq!(server.text(names).await?, "clusterd_b,somebody_elses");
        }
        Ok(())
    });
}
