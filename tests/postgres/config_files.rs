//! What we write is what PostgreSQL reads.

use std::collections::BTreeMap;

use clusterd::postgres::{ConfigInputs, Error};

use crate::place::{LIMIT, Server, on_every_major};

#[test]
fn managed_parameters_are_ours_whatever_lies_in_the_data_directory() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        let auto = a.data_dir().join("postgresql.auto.conf");
        std::fs::write(
            &auto,
            "fsync = off\nport = 1\nprimary_conninfo = 'host=evil'\nwork_mem = '5MB'\n\
             restart_after_crash = on\n",
        )?;
        a.start().await?;
        for (name, value) in [
            ("fsync", "on"),
            ("primary_conninfo", ""),
            ("work_mem", "5MB"),
            ("restart_after_crash", "off"),
            ("full_page_writes", "on"),
            ("hot_standby", "on"),
            ("wal_log_hints", "on"),
            ("wal_receiver_status_interval", "1s"),
            ("wal_retrieve_retry_interval", "200ms"),
            ("recovery_target_timeline", "latest"),
        ] {
            assert_eq!(a.text(&format!("SHOW {name}")).await?, value, "{name}");
        }
        let config = a.text("SHOW config_file").await?;
        assert!(
            config.starts_with(&a.state_dir().display().to_string()),
            "{config}"
        );
        Ok(())
    });
}

#[test]
fn a_foreign_value_is_found_and_removed() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        assert!(a.postgres.take_foreign_settings().await?.is_empty());
        let statement = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
        if a.run(statement).await.is_err() {
            // From 17 on ALTER SYSTEM is switched off; a file can still be edited.
            assert!(a.postgres.major().has_allow_alter_system());
            let auto = a.data_dir().join("postgresql.auto.conf");
            std::fs::write(&auto, "synchronous_standby_names = 'nobody'\n")?;
        }
        a.run("SELECT pg_reload_conf()").await?;
        a.wait_status("the foreign value", |status| match status {
            cluster_core::model::PostgresStatus::Primary(primary) => {
                (primary.sync_names == "nobody").then_some(())
            }
            _ => None,
        })
        .await?;
        let found = a.postgres.take_foreign_settings().await?;
        assert_eq!(found, ["synchronous_standby_names"]);
        assert_eq!(a.primary().await?.sync_names, "");
        Ok(())
    });
}

#[test]
fn bad_parameters_are_all_found_before_anything_is_applied() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let inputs = |parameters: &BTreeMap<String, String>| ConfigInputs {
            parameters: parameters.clone(),
            ..ConfigInputs::default()
        };
        let good = set(&[
            ("work_mem", "8MB"),
            ("my.own", "it's"),
            ("log_line_prefix", "%m \\ "),
        ]);
        assert_eq!(
            a.postgres.validate_parameters(&inputs(&good)).await?,
            Vec::<String>::new()
        );
        let bad = set(&[
            ("work_mem", "lots"),
            ("no_such_parameter", "1"),
            ("max_connections", "-5"),
        ]);
        let problems = a.postgres.validate_parameters(&inputs(&bad)).await?;
        for name in ["work_mem", "no_such_parameter", "max_connections"] {
            assert!(
                problems.iter().any(|it| it.contains(name)),
                "{name}: {problems:?}"
            );
        }
        let ours = set(&[("FSYNC", "off"), ("port", "1")]);
        assert_eq!(
            a.postgres.validate_parameters(&inputs(&ours)).await?.len(),
            2
        );
        let inputs = ConfigInputs {
            parameters: ours,
            ..a.inputs()
        };
        let refused = a.postgres.write_config(&inputs);
        assert!(
            matches!(refused, Err(Error::Parameters { .. })),
            "{refused:?}"
        );
        Ok(())
    });
}

#[test]
fn probes_write_where_they_should() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.probe_volumes(LIMIT).await?;
        a.bootstrap().await?;
        let before = a.flushed().await?;
        let latencies = a.postgres.probe_volumes(LIMIT).await?;
        assert!(latencies.data < LIMIT && latencies.wal < LIMIT);
        a.postgres.probe_commit(LIMIT).await?;
        assert!(
            a.flushed().await? > before,
            "the commit probe is flushed WAL"
        );
        a.stop().await?;
        assert!(a.postgres.probe_commit(LIMIT).await.is_err());
        Ok(())
    });
}
