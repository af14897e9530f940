//! Parquet: row groups are encoded apart from their file, on any thread, and put to it in order.

use super::file::Hashed;
use arrow_json::ReaderBuilder;
use arrow_schema::{Schema, SchemaRef};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
};
use std::{io, sync::Arc};

/// Columns and how they are compressed.
#[derive(Clone)]
pub struct Table {
    schema: SchemaRef,
    properties: WriterProperties,
}

/// A row group that is not in a file yet.
pub struct Group(Vec<ArrowColumnChunk>);

/// Why rows became no row group.
pub type Error = ParquetError;

impl Table {
    /// # Errors
    /// Where the level is none of zstd's.
    pub fn new(schema: Schema, level: i32) -> Result<Self, Error> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
            .set_created_by(format!("sweroll {}", env!("CARGO_PKG_VERSION")))
            // Values are long texts: the size of a page is looked at often, and no group is cut but by us.
            .set_write_batch_size(64)
            .set_max_row_group_row_count(None)
            .build();
        Ok(Table { schema: Arc::new(schema), properties })
    }

    fn writer<W: io::Write + Send>(&self, to: W) -> Result<(SerializedFileWriter<W>, ArrowRowGroupWriterFactory), Error> {
        ArrowWriter::try_new(to, Arc::clone(&self.schema), Some(self.properties.clone()))?.into_serialized_writer()
    }

    /// What a thread encodes with.
    ///
    /// # Errors
    /// Where a type of a column has no form in Parquet.
    pub fn encoder(&self) -> Result<Encoder, Error> {
        Ok(Encoder { schema: Arc::clone(&self.schema), groups: self.writer(io::sink())?.1 })
    }

    /// A file without groups yet.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn file(&self, file: Hashed) -> Result<TableFile, Error> {
        Ok(TableFile(self.writer(file)?.0))
    }
}

pub struct Encoder {
    schema: SchemaRef,
    groups: ArrowRowGroupWriterFactory,
}

impl Encoder {
    /// Rows of JSON, one a line, as one row group.
    ///
    /// # Errors
    /// Where a row is not of the schema.
    pub fn encode(&self, lines: &[u8]) -> Result<Group, Error> {
        let rows = memchr::memchr_iter(b'\n', lines).count();
        let json = |e: arrow_schema::ArrowError| ParquetError::ArrowError(e.to_string());
        let mut decoder =
            ReaderBuilder::new(Arc::clone(&self.schema)).with_batch_size(rows).with_strict_mode(true).build_decoder().map_err(json)?;
        let mut left = lines;
        while !left.is_empty() {
            let read = decoder.decode(left).map_err(json)?;
            if read == 0 {
                break;
            }
            left = &left[read..];
        }
        let batch = decoder.flush().map_err(json)?.filter(|batch| batch.num_rows() == rows && left.trim_ascii().is_empty());
        let batch = batch.ok_or_else(|| ParquetError::General(format!("{rows} lines are not as many rows")))?;
        let mut writers = self.groups.create_column_writers(0)?.into_iter();
        let mut chunks = Vec::with_capacity(writers.len());
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, column)? {
                let mut writer = writers.next().ok_or_else(|| ParquetError::General("more columns than the schema has".to_owned()))?;
                writer.write(&leaf)?;
                chunks.push(writer.close()?);
            }
        }
        Ok(Group(chunks))
    }
}

pub struct TableFile(SerializedFileWriter<Hashed>);

impl TableFile {
    /// # Errors
    /// Where it cannot be written.
    pub fn append(&mut self, Group(chunks): Group) -> Result<(), Error> {
        let mut group = self.0.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        Ok(())
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn finish(self) -> Result<Hashed, Error> {
        self.0.into_inner()
    }
}
