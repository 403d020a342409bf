//! Reads ISO 9660 images: just enough to find the files of a seed.
//!
//! Names are taken from the Joliet descriptor if there is one, else from Rock Ridge `NM` entries,
//! else they are the plain ones, lower case and without version, as Linux shows them.
//!
//! Every offset and length comes from the image and is checked; directories and files are read up to
//! limits. Source: ECMA-119, and the Joliet and Rock Ridge specifications.

use bytes::Bytes;

/// Size of a logical sector.
const SECTOR_BYTES: usize = 2048;
/// The first sector of the volume descriptors; what is before belongs to the boot loader.
const DESCRIPTORS_FROM: usize = 16;
/// Descriptors looked at. Real images have two to four.
const DESCRIPTORS_MAX: usize = 32;
/// Files read from one image. A seed has three or four.
const FILES_MAX: usize = 4096;
/// Depth of folders, as ECMA-119 limits it.
const DEPTH_MAX: usize = 8;
/// The folders of one image together, in bytes.
const FOLDER_BYTES_MAX: usize = 4 << 20;

/// The bytes are not an ISO 9660 image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadIso {
    /// No primary volume descriptor.
    #[error("no ISO 9660 volume descriptor found")]
    NoDescriptor,
    /// Something points outside the image.
    #[error("the image ends before the data it refers to")]
    Truncated,
    /// A limit of this reader was exceeded.
    #[error("the image has more files or folders than a seed can have")]
    TooLarge,
}

/// One file of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// The path below the root, without leading slash.
    pub path: String,
    /// The content, sharing the image's memory.
    pub bytes: Bytes,
}

impl File {
    /// A file for a [`Medium::Drive`](super::Medium::Drive).
    pub fn new(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            path: path.into(),
            bytes: bytes.into(),
        }
    }
}

// The files of a seed hold bootstrap data.
impl std::fmt::Debug for File {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({} bytes)", self.path, self.bytes.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Plain,
    Joliet,
}

/// Reads the volume label and all files.
///
/// # Errors
///
/// [`BadIso`] if the bytes are not an image or exceed the limits of this reader.
pub fn read_iso(image: &Bytes) -> Result<(String, Vec<File>), BadIso> {
    let mut primary = None;
    let mut joliet = None;
    for index in 0..DESCRIPTORS_MAX {
        let Ok(sector) = slice(
            image,
            (DESCRIPTORS_FROM + index) * SECTOR_BYTES,
            SECTOR_BYTES,
        ) else {
            break;
        };
        if &sector[1..6] != b"CD001" {
            break;
        }
        match sector[0] {
            1 if primary.is_none() => primary = Some(sector),
            // The escape sequences `%/@`, `%/C`, `%/E` are the three levels of Joliet.
            2 if sector[88..90] == *b"%/" && matches!(sector[90], b'@' | b'C' | b'E') => {
                joliet = Some(sector);
            }
            255 => break,
            _ => {}
        }
    }
    let primary = primary.ok_or(BadIso::NoDescriptor)?;
    let label = String::from_utf8_lossy(&primary[40..72])
        .trim_end_matches([' ', '\0'])
        .to_owned();
    let (root, naming) = match joliet {
        Some(joliet) => (&joliet[156..190], Naming::Joliet),
        None => (&primary[156..190], Naming::Plain),
    };
    let mut reader = Reader {
        image,
        naming,
        files: Vec::new(),
        folder_bytes: 0,
    };
    reader.folder("", extent(root), 0)?;
    Ok((label, reader.files))
}

struct Reader<'a> {
    image: &'a Bytes,
    naming: Naming,
    files: Vec<File>,
    folder_bytes: usize,
}

impl Reader<'_> {
    fn folder(
        &mut self,
        path: &str,
        (start, length): (usize, usize),
        depth: usize,
    ) -> Result<(), BadIso> {
        self.folder_bytes = self.folder_bytes.saturating_add(length);
        if depth > DEPTH_MAX || self.folder_bytes > FOLDER_BYTES_MAX {
            return Err(BadIso::TooLarge);
        }
        let image = self.image;
        let records = slice(image, start, length)?;
        let mut at = 0;
        while at < records.len() {
            let size = usize::from(records[at]);
            if size == 0 {
                // Records do not cross sectors; the rest of this one is padding.
                at = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
                continue;
            }
            let record = records.get(at..at + size).ok_or(BadIso::Truncated)?;
            at += size;
            self.record(path, record, depth)?;
        }
        Ok(())
    }

    fn record(&mut self, path: &str, record: &[u8], depth: usize) -> Result<(), BadIso> {
        let flags = *record.get(25).ok_or(BadIso::Truncated)?;
        let name_length = usize::from(*record.get(32).ok_or(BadIso::Truncated)?);
        let name = record.get(33..33 + name_length).ok_or(BadIso::Truncated)?;
        // One byte 0 or 1 names the folder itself and its parent.
        if matches!(name, [0 | 1]) {
            return Ok(());
        }
        let name = match self.naming {
            Naming::Joliet => joliet_name(name),
            Naming::Plain => {
                // The system use area starts at an even offset.
                let after = 33 + name_length + usize::from(name_length % 2 == 0);
                rock_ridge_name(record.get(after..).unwrap_or_default())
                    .unwrap_or_else(|| plain_name(name))
            }
        };
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}/{name}")
        };
        let (start, length) = extent(record);
        if flags & 2 != 0 {
            return self.folder(&path, (start, length), depth + 1);
        }
        if self.files.len() == FILES_MAX {
            return Err(BadIso::TooLarge);
        }
        slice(self.image, start, length)?;
        self.files.push(File {
            path,
            bytes: self.image.slice(start..start + length),
        });
        Ok(())
    }
}

/// Where the data of a directory record is. The record has at least 34 bytes or this is empty.
fn extent(record: &[u8]) -> (usize, usize) {
    let number = |at: usize| {
        record
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    let start = usize::try_from(number(2)).unwrap_or(usize::MAX);
    let length = usize::try_from(number(10)).unwrap_or(usize::MAX);
    (start.saturating_mul(SECTOR_BYTES), length)
}

fn slice(image: &[u8], start: usize, length: usize) -> Result<&[u8], BadIso> {
    let end = start.checked_add(length).ok_or(BadIso::Truncated)?;
    image.get(start..end).ok_or(BadIso::Truncated)
}

fn joliet_name(name: &[u8]) -> String {
    let units: Vec<u16> = name
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    without_version(&String::from_utf16_lossy(&units)).to_owned()
}

fn plain_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    without_version(&name).trim_end_matches('.').to_owned()
}

fn without_version(name: &str) -> &str {
    name.rsplit_once(';').map_or(name, |(name, _)| name)
}

/// The alternate name among the system use entries, which may come in several parts.
fn rock_ridge_name(mut entries: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    while let [first, second, size, _version, ..] = *entries {
        let entry = entries
            .get(..usize::from(size))
            .filter(|entry| entry.len() >= 4)?;
        if [first, second] == *b"NM" {
            name.extend_from_slice(entry.get(5..)?);
        }
        entries = &entries[entry.len()..];
    }
    (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned())
}
