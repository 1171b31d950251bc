//! qcow2 version 3 (QEMU, docs/interop/qcow2): header, reference counts, two levels of tables, then
//! the clusters as they are, then the deflated ones. All numbers are big-endian.
//!
//! Deflate and not zstd: nearly everything on our disks is compressed already, so zstd would gain
//! nothing, and every QEMU and every other reader of qcow2 inflates (zstd needs QEMU 5.1).

use std::collections::BTreeMap;

use super::survey::{CLUSTER, Survey};
use crate::blob::{Blob, Extents};
use crate::error::{Error, Kind, Result};

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = CLUSTER as u64;
/// Entries of 8 bytes in one table of one cluster.
const TABLE_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Counts of 16 bits in one cluster.
const COUNTS: u64 = CLUSTER_BYTES / 2;
const HEADER_BYTES: u32 = 104;
/// Entry bit 63: the cluster has a count of exactly one.
const COPIED: u64 = 1 << 63;
/// Second-level entry bit 62: deflated.
const COMPRESSED: u64 = 1 << 62;
/// Where the number of further sectors begins in the entry of a deflated cluster.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);
const SECTOR: u64 = 512;

/// Where everything lies, in host clusters.
struct Places {
    count_table: u64,
    count_table_clusters: u64,
    counts: u64,
    count_blocks: u64,
    first_level: u64,
    first_level_entries: u64,
    second_level: u64,
    plain: u64,
    packed: u64,
    end: u64,
}

/// How many clusters of each kind there are.
struct Amounts {
    first_level_entries: u64,
    second_level: u64,
    plain: u64,
    packed: u64,
}

impl Places {
    fn of(amounts: &Amounts) -> Self {
        let first_level_clusters = amounts.first_level_entries.div_ceil(TABLE_ENTRIES).max(1);
        let others = 1 + first_level_clusters + amounts.second_level + amounts.plain + amounts.packed;
        // The counts count themselves: grow until they cover all.
        let (mut blocks, mut table) = (1, 1);
        while others + blocks + table > blocks * COUNTS || blocks > table * TABLE_ENTRIES {
            blocks = (others + blocks + table).div_ceil(COUNTS);
            table = blocks.div_ceil(TABLE_ENTRIES);
        }
        let counts = 1 + table;
        let first_level = counts + blocks;
        let second_level = first_level + first_level_clusters;
        let plain = second_level + amounts.second_level;
        let packed = plain + amounts.plain;
        Self {
            count_table: 1,
            count_table_clusters: table,
            counts,
            count_blocks: blocks,
            first_level,
            first_level_entries: amounts.first_level_entries,
            second_level,
            plain,
            packed,
            end: packed + amounts.packed,
        }
    }
}

/// The bytes of the file.
///
/// # Errors
/// When the disk is empty, not in whole sectors, or too big.
pub(super) fn lay_out(survey: &Survey) -> Result<Extents> {
    let size = survey.content.size();
    if size == 0 || !size.is_multiple_of(SECTOR) || size > 1 << 46 {
        return Err(Error::new(
            Kind::Failed,
            format!("a disk of {size} bytes: expected whole sectors of 512 bytes, at most 64 TiB"),
        ));
    }
    let touched = survey.touched(CLUSTER_BYTES);
    let plain: Vec<u64> = touched.iter().copied().filter(|cluster| !survey.packed.contains_key(cluster)).collect();
    let packed_bytes: u64 = survey.packed.values().map(Blob::len).sum();
    let mut tables: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for cluster in &touched {
        tables.entry(cluster / TABLE_ENTRIES).or_insert_with(|| vec![0; TABLE_ENTRIES as usize]);
    }
    let places = Places::of(&Amounts {
        first_level_entries: size.div_ceil(CLUSTER_BYTES * TABLE_ENTRIES),
        second_level: tables.len() as u64,
        plain: plain.len() as u64,
        packed: packed_bytes.div_ceil(CLUSTER_BYTES),
    });
    let mut set = |cluster: u64, entry: u64| {
        if let Some(slot) = tables.get_mut(&(cluster / TABLE_ENTRIES)).and_then(|t| t.get_mut((cluster % TABLE_ENTRIES) as usize))
        {
            *slot = entry;
        }
    };
    let mut counts = vec![1u16; usize::try_from(places.end).map_err(|_| too_big(size))?];
    counts[places.packed as usize..].fill(0);
    let mut data: Vec<(u64, Extents)> = Vec::new();
    for (cluster, host) in plain.iter().zip(places.plain..) {
        set(*cluster, (host * CLUSTER_BYTES) | COPIED);
        data.push((host * CLUSTER_BYTES, survey.content.slice(cluster * CLUSTER_BYTES, CLUSTER_BYTES)));
    }
    let mut offset = places.packed * CLUSTER_BYTES;
    for (cluster, blob) in &survey.packed {
        let last = offset + blob.len() - 1;
        set(*cluster, COMPRESSED | ((last / SECTOR - offset / SECTOR) << SECTORS_SHIFT) | offset);
        counts[(offset / CLUSTER_BYTES) as usize..=(last / CLUSTER_BYTES) as usize].iter_mut().for_each(|count| *count += 1);
        let mut piece = Extents::new(0);
        piece.push(0, blob.clone());
        data.push((offset, piece));
        offset = last + 1;
    }
    let mut file = Extents::new(places.end * CLUSTER_BYTES);
    push_tables(&mut file, &places, &counts, &tables, size);
    data.iter().for_each(|(offset, piece)| {
        for (start, blob) in piece.parts() {
            file.push(offset + start, blob.clone());
        }
    });
    Ok(file)
}

/// Header and tables, at the start of the file.
fn push_tables(file: &mut Extents, places: &Places, counts: &[u16], tables: &BTreeMap<u64, Vec<u64>>, size: u64) {
    let numbers = |numbers: &mut dyn Iterator<Item = u64>| Blob::memory(numbers.flat_map(u64::to_be_bytes).collect::<Vec<u8>>());
    file.push(0, Blob::memory(header(places, size)));
    let mut blocks = (places.counts..).take(places.count_blocks as usize).map(|cluster| cluster * CLUSTER_BYTES);
    file.push(places.count_table * CLUSTER_BYTES, numbers(&mut blocks));
    let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
    file.push(places.counts * CLUSTER_BYTES, Blob::memory(counts));
    let place: BTreeMap<u64, u64> = tables.keys().copied().zip(places.second_level..).collect();
    let mut first =
        (0..places.first_level_entries).map(|entry| place.get(&entry).map_or(0, |host| (host * CLUSTER_BYTES) | COPIED));
    file.push(places.first_level * CLUSTER_BYTES, numbers(&mut first));
    for (table, host) in tables.values().zip(places.second_level..) {
        file.push(host * CLUSTER_BYTES, numbers(&mut table.iter().copied()));
    }
}

/// The header with no extension behind it.
fn header(places: &Places, size: u64) -> Vec<u8> {
    let mut bytes = b"QFI\xfb".to_vec();
    let half = |number: u32| number.to_be_bytes().to_vec();
    let full = |number: u64| number.to_be_bytes().to_vec();
    let rest = [
        half(3),
        full(0), // backing file
        half(0),
        half(CLUSTER_BITS),
        full(size),
        half(0), // encryption
        half(places.first_level_entries as u32),
        full(places.first_level * CLUSTER_BYTES),
        full(places.count_table * CLUSTER_BYTES),
        half(places.count_table_clusters as u32),
        half(0), // snapshots
        full(0),
        full(0), // incompatible, compatible, autoclear features
        full(0),
        full(0),
        half(4), // counts of 1 << 4 bits
        half(HEADER_BYTES),
        full(0), // no further header extension
    ];
    bytes.extend(rest.concat());
    bytes
}

fn too_big(size: u64) -> Error {
    Error::new(Kind::Failed, format!("a disk of {size} bytes needs more tables than this machine can hold"))
}
