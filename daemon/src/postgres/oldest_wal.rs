//! Since where this server keeps WAL: what a standby that lacks more can never be sent.

use std::fs;
use std::time::Duration;

use cluster_core::model::Lsn;
use tokio::time::Instant;

use super::status::Observer;
use super::{Error, Postgres};

/// How often the directory is listed. WAL is dropped at checkpoints, which are rarer.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Postgres {
    /// Where the oldest segment in `pg_wal` begins, as of the last [`LOOK_EVERY`].
    pub(super) async fn oldest_wal(&self, observer: &mut Observer) -> Result<Option<Lsn>, Error> {
        if let Some((oldest, looked)) = observer.oldest_wal
            && looked.elapsed() < LOOK_EVERY
        {
            return Ok(Some(oldest));
        }
        let segment_bytes = match observer.segment_bytes {
            Some(bytes) => bytes,
            None => self.control_data().await?.wal_segment_bytes,
        };
        observer.segment_bytes = Some(segment_bytes);
        let oldest = self
            .on_disk(move |it| {
                let names = fs::read_dir(it.data_path("pg_wal")).into_iter().flatten();
                let names = names
                    .flatten()
                    .filter_map(|it| it.file_name().into_string().ok());
                names
                    .filter_map(|name| begin_of(&name, segment_bytes))
                    .min()
            })
            .await?;
        observer.oldest_wal = oldest.map(|oldest| (oldest, Instant::now()));
        Ok(oldest)
    }
}

/// Where the segment of this name begins; none: it is no segment's name.
fn begin_of(name: &str, segment_bytes: u64) -> Option<Lsn> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let high = u64::from_str_radix(&name[8..16], 16).ok()?;
    let low = u64::from_str_radix(&name[16..], 16).ok()?;
    Some(Lsn((high << 32) + low.checked_mul(segment_bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_s_name_says_where_it_begins() {
        let mib = 1024 * 1024;
        let begin = |name| begin_of(name, 16 * mib);
        assert_eq!(begin("000000030000000000000002"), Some(Lsn(32 * mib)));
        assert_eq!(
            begin("0000000300000001000000FF"),
            Some(Lsn((1 << 32) + 255 * 16 * mib))
        );
        assert_eq!(begin("00000003.history"), None);
        assert_eq!(begin("000000030000000000000002.partial"), None);
        assert_eq!(begin("archive_status_of_24_byte"), None);
    }
}
