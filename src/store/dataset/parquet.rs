//! Rows of a Parquet file as JSON objects, one at a time: what is in memory is one row and a page of each column that is read.

use super::{DatasetError, Numbered};
use crate::store::row::{self, RowError};
use arrow_array::RecordBatch;
use arrow_json::{WriterBuilder, writer::LineDelimited};
use arrow_schema::{ArrowError, DataType, Fields};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};
use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Rows decoded at once. Long test lists make rows of megabytes, and a column of a batch may not reach 2 GiB.
const BATCH_ROWS: usize = 1;

pub(super) struct Rows {
    path: PathBuf,
    batches: ParquetRecordBatchReader,
    /// The row handed over last, from 1.
    number: u64,
    max: u64,
    buffer: Vec<u8>,
}

impl Rows {
    pub(super) fn new(path: &Path, file: File, max: u64) -> Result<Self, DatasetError> {
        let damaged = |problem| DatasetError::Parquet { path: path.to_owned(), row: 1, problem };
        // What the file says of Arrow types (dictionaries, large strings) is nothing to JSON; without it all text is plain.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, options)).map_err(damaged)?;
        let columns = columns(metadata.schema().fields()).map_err(damaged)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let batches = guarded(|| builder.build()).map_err(damaged)?;
        Ok(Rows { path: path.to_owned(), batches, number: 0, max, buffer: Vec::new() })
    }

    /// The next row. The inner error is of this row alone; reading goes on behind it.
    pub(super) fn next(&mut self) -> Result<Option<Numbered<'_>>, DatasetError> {
        self.number += 1;
        let damaged = |problem| DatasetError::Parquet { path: self.path.clone(), row: self.number, problem };
        let Some(batch) = guarded(|| self.batches.next().transpose()).map_err(damaged)? else { return Ok(None) };
        self.buffer.clear();
        guarded(|| write(&batch, &mut self.buffer)).map_err(damaged)?;
        let length = self.buffer.trim_ascii_end().len() as u64;
        if length > self.max {
            return Ok(Some((self.number, Err(RowError::too_long(length, self.max)))));
        }
        Ok(Some((self.number, Ok(&self.buffer))))
    }
}

fn write(row: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out);
    writer.write(row)?;
    writer.finish()
}

/// Which columns are read.
fn columns(fields: &Fields) -> Result<Vec<usize>, String> {
    let names = || fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    let read: Vec<usize> = (0..fields.len()).filter(|at| row::FIELDS.contains(&fields[*at].name().as_str())).collect();
    if !read.iter().any(|at| fields[*at].name() == "instance_id") {
        return Err(format!("it has no column instance_id, its columns are {}: rename one, or give another file", names()));
    }
    match read.iter().find(|at| is_binary(fields[**at].data_type())) {
        Some(at) => Err(format!("its column {} is binary: write it as text", fields[*at].name())),
        None => Ok(read),
    }
}

fn is_binary(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => true,
        DataType::List(of) | DataType::LargeList(of) => is_binary(of.data_type()),
        _ => false,
    }
}

/// The reader of a damaged file may panic; the file is told all the same.
fn guarded<T, E: std::fmt::Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(format!("{e}: fetch or write it again")),
        Err(_) => Err("its content contradicts itself: fetch or write it again".to_owned()),
    }
}
