//! A Patroni file and what becomes of it: the config, the secrets beside it, and everything that is not
//! carried over, each with what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clusterctl::args::ImportPatroni;
use clusterctl::commands::import_patroni::run;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/patroni")
        .join(name)
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("written");
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        wanted,
        "{} (UPDATE_GOLDEN=1 rewrites it)",
        path.display()
    );
}

fn args(folder: &Path, dynamic: Option<&str>) -> ImportPatroni {
    let members = ["pg_1=10.0.0.1", "pg_2=10.0.0.2:9009", "w=10.0.0.9:witness"];
    ImportPatroni {
        file: sample("patroni.yml"),
        members: members.map(str::to_owned).to_vec(),
        dynamic: dynamic.map(sample),
        folder: folder.join("made"),
    }
}

#[test]
fn a_file_becomes_a_config_and_nothing_is_dropped_in_silence() {
    for (dynamic, name) in [
        (None, "import_patroni"),
        (Some("dynamic.yml"), "import_patroni_dynamic"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let args = args(folder.path(), dynamic);
        let report = run(&args).expect("it will do");
        let read = |name: &str| fs::read_to_string(args.folder.join(name)).expect("written");
        let (config, left) = (read("clusterd.toml"), read("not-carried-over.txt"));
        golden(&format!("{name}.toml"), &config);
        golden(&format!("{name}.txt"), &left);
        for secret in [
            "rest-secret",
            "super-secret",
            "repl-secret",
            "rewind 'secret'",
        ] {
            for text in [&config, &left, &report.human, &report.data.to_string()] {
                assert!(!text.contains(secret), "{secret}");
            }
        }
        assert_eq!(read("rewind-password"), "rewind 'secret'\n");
        let mode = |name: &str| {
            let meta = fs::metadata(args.folder.join(name)).expect("written");
            meta.permissions().mode() & 0o777
        };
        assert_eq!(mode("replication-password"), 0o600);
        assert!(
            run(&args).is_err(),
            "a folder that is there is not written into"
        );
    }
}

#[test]
fn what_will_not_do_is_told_at_once_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("patroni.yml");
    fs::write(&file, "name: pg_1\npostgresql: {listen: 'x:port'}\n").expect("written");
    let mut bad = args(folder.path(), None);
    bad.file = file;
    bad.members = vec!["db2=10.0.0.2".to_owned()];
    let stop = run(&bad).expect_err("much is missing");
    for words in [
        "scope: missing",
        "`pg-1` is not among --members",
        "postgresql.data_dir: missing",
        "postgresql.bin_dir: missing",
        "postgresql.authentication.replication.password: missing",
        "`port` is no port",
    ] {
        assert!(stop.text.contains(words), "{words} in {}", stop.text);
    }
    bad.members = ["db1", "a=", "b=h", "b=i"].map(str::to_owned).to_vec();
    bad.file = folder.path().join("nowhere.yml");
    let stop = run(&bad).expect_err("nothing of it will do");
    assert_eq!(stop.text.lines().count(), 4, "{}", stop.text);
    assert!(!bad.folder.exists());
}
