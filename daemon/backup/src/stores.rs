//! Which object store a place is, and how long it may take to answer.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::Error;
use crate::credentials::Credentials;

/// No connection within this: the store is away.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Nothing heard within this after a question or a part was sent, and between two pieces of an answer. A
/// limit of the whole would end the download of a large backup.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// No new attempt after this. With [`SILENCE_LIMIT`] an attempt ends within about a minute, before
/// PostgreSQL's archiver is told that nobody answers (two minutes).
const RETRY_LIMIT: Duration = Duration::from_secs(20);

/// How often at most.
const RETRIES: usize = 5;

/// An opened store.
pub(crate) struct Opened {
    /// The library's.
    pub store: Arc<dyn ObjectStore>,
    /// What comes before every name.
    pub base: Path,
    /// The library cannot store on condition that nothing is there yet.
    pub is_read_only: bool,
}

/// What would make a repository for writing of this place fail, without asking the store; each as
/// `key: what is wrong`, with the keys `repository` and `credentials`.
pub fn problems(place: &str, credentials: Option<&FilePath>) -> Vec<String> {
    if place.starts_with('/') {
        let misplaced = credentials.map(|_| DIRECTORY_WITH_CREDENTIALS);
        return misplaced
            .into_iter()
            .map(|why| format!("credentials: {why}"))
            .collect();
    }
    match open(place, credentials) {
        Ok(opened) if opened.is_read_only => {
            vec![format!("repository: {}", read_only(place))]
        }
        Ok(_) => Vec::new(),
        Err(Error::BadCredentials { path, problems }) => problems
            .iter()
            .map(|why| format!("credentials: {}: {why}", path.display()))
            .collect(),
        Err(Error::BadPlace { place, why }) => vec![format!("repository: `{place}`: {why}")],
        Err(other) => vec![format!("repository: {other}")],
    }
}

const DIRECTORY_WITH_CREDENTIALS: &str = "a directory takes none (leave them out)";

/// In words.
pub(crate) fn read_only(place: &str) -> Error {
    Error::ReadOnly(place.to_owned())
}

/// Opens a place; the store itself is not asked anything.
///
/// # Errors
/// The place, or the file of credentials.
pub(crate) fn open(place: &str, credentials: Option<&FilePath>) -> Result<Opened, Error> {
    let bad = |why: String| Error::BadPlace {
        place: place.to_owned(),
        why,
    };
    if place.starts_with('/') {
        if credentials.is_some() {
            return Err(bad(DIRECTORY_WITH_CREDENTIALS.to_owned()));
        }
        std::fs::create_dir_all(place).map_err(|error| bad(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(FilePath::new(place))
            .map_err(|error| bad(error.to_string()))?;
        return Ok(Opened {
            // A segment is given free by PostgreSQL as soon as it is said to be archived.
            store: Arc::new(store.with_fsync(true)),
            base: Path::default(),
            is_read_only: false,
        });
    }
    let url = Url::parse(place).map_err(|error| {
        bad(format!(
            "{error}; an absolute path of a directory, or a URL"
        ))
    })?;
    if url.password().is_some() || url.query().is_some() {
        // Not in the answer either.
        return Err(Error::BadPlace {
            place: format!("{}://…", url.scheme()),
            why: "a secret in a URL is shown to everybody (write it into the file of credentials)"
                .to_owned(),
        });
    }
    let (scheme, base) = ObjectStoreScheme::parse(&url).map_err(|_| {
        bad("no store of this kind (a directory, s3://, gs://, az:// or https://)".to_owned())
    })?;
    let credentials = match credentials {
        Some(path) => Credentials::read(path)?,
        None => Credentials::default(),
    };
    // Two libraries for TLS may be built in; the one for all of this program is ring. An error says that
    // one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_read_only = scheme == ObjectStoreScheme::Http;
    let store = build(scheme, &url, &credentials).map_err(|error| match error {
        // Something is missing, and no file is there to name.
        Error::BadCredentials { path, problems } if path.as_os_str().is_empty() => bad(format!(
            "{} (a file of credentials may say it)",
            problems.join("; ")
        )),
        other => other,
    })?;
    Ok(Opened {
        store,
        base,
        is_read_only,
    })
}

/// One kind of store: the builders have the same methods, but no trait.
macro_rules! built {
    ($builder:ty, $url:expr, $kind:literal, $credentials:expr) => {{
        let builder = <$builder>::new()
            .with_url($url)
            .with_retry(retry())
            .with_client_options(client());
        let options = $credentials.options($kind)?;
        let builder = options.into_iter().fold(builder, |builder, (key, value)| {
            builder.with_config(key, value)
        });
        let built = builder.build();
        Ok(Arc::new(built.map_err(|error| {
            $credentials.bad(vec![error.to_string()])
        })?))
    }};
}

fn build(
    scheme: ObjectStoreScheme,
    url: &Url,
    credentials: &Credentials,
) -> Result<Arc<dyn ObjectStore>, Error> {
    match scheme {
        ObjectStoreScheme::AmazonS3 => {
            built!(AmazonS3Builder, url.as_str(), "an S3 store", credentials)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            built!(
                GoogleCloudStorageBuilder,
                url.as_str(),
                "Google's store",
                credentials
            )
        }
        ObjectStoreScheme::MicrosoftAzure => {
            built!(
                MicrosoftAzureBuilder,
                url.as_str(),
                "Azure's store",
                credentials
            )
        }
        ObjectStoreScheme::Http => {
            let host = &url[..url::Position::BeforePath];
            built!(HttpBuilder, host, "an HTTP server", credentials)
        }
        // `file:`, `memory:` and what a later library may know.
        _ => Err(Error::BadPlace {
            place: url.to_string(),
            why: "no repository (write a directory as its absolute path)".to_owned(),
        }),
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_LIMIT)
        .with_read_timeout(SILENCE_LIMIT)
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("credentials.toml");
        std::fs::write(&path, text).expect("written");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, closed).expect("closed");
        (place, path)
    }

    #[test]
    fn every_unknown_option_is_named_and_no_secret_is_shown() {
        let (_place, path) = file(
            "aws_access_key_id = \"hush\"\naws_endpiont = \"hush\"\nregion = \"here\"\ncolour = \"hush\"\n",
        );
        let found = problems("s3://bucket/prefix", Some(&path));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("aws_endpiont") && found[1].contains("colour"));
        assert!(!found.join("").contains("hush"), "{found:?}");
        let (_place, path) = file("aws_secret_access_key = hush\n");
        let found = problems("s3://bucket", Some(&path));
        assert!(found[0].contains("line 1"), "{found:?}");
        assert!(!found.join("").contains("hush"), "{found:?}");
    }

    #[test]
    fn a_store_is_opened_without_asking_it() {
        let (_place, path) = file(
            "aws_access_key_id = \"a\"\naws_secret_access_key = \"hush\"\naws_region = \"x\"\nread_timeout = \"2s\"\n",
        );
        assert_eq!(
            problems("s3://bucket/prefix", Some(&path)),
            Vec::<String>::new()
        );
        let options = crate::Options {
            credentials: Some(path),
            ..crate::Options::default()
        };
        let opened = crate::Repository::open_with("s3://bucket/prefix", options).expect("opens");
        assert!(!format!("{opened:?}").contains("hush"));
    }

    #[test]
    fn what_cannot_be_written_to_is_said_so() {
        let why = |place: &str| problems(place, None).join("; ");
        assert!(
            why("https://host/path").contains("only be read"),
            "{}",
            why("https://host/x")
        );
        assert!(why("ftp://host/path").contains("no store of this kind"));
        assert!(why("memory:///").contains("absolute path"));
        assert!(why("relative/path").contains("absolute path"));
        let secret = why("https://me:hush@host/path");
        assert!(secret.contains("file of credentials") && !secret.contains("hush@"));
        assert!(why("az://container/path").contains("file of credentials"));
        assert_eq!(why("/srv/repository"), "");
    }
}
