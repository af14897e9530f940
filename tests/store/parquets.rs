//! Instances out of Parquet and out of directories of shards: the same as out of JSON lines.

use super::*;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use dataset::{DatasetError, Scan};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, GzipLevel, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::{Value, json};

const COMMIT: &str = "6ce12bb9105d29d735c42989fce8949c18589519";

/// Rows with what text can hold, and columns that no one reads.
fn rows(ids: std::ops::Range<usize>) -> Vec<Value> {
    let row = |i: usize| {
        json!({
            "instance_id": format!("i{i:03}"), "repo": "o/n", "base_commit": COMMIT, "patch": format!("+é\u{0}\u{1F600}\"\\\n\t{i}"),
            "test_patch": "x".repeat(i * 100), "problem_statement": "mend it\r\n\u{2028}", "version": "1.0",
            "FAIL_TO_PASS": [format!("t::a[{i}]"), "é"], "PASS_TO_PASS": "[\"b\"]", "hints_text": null, "stars": i, "fork": true,
            "created": {"at": [1, null]},
        })
    };
    ids.map(row).collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Arrow's own reading of JSON decides the columns' types, but for those of `types`.
fn batch(rows: &[Value], types: &[(&str, DataType)]) -> RecordBatch {
    let found = arrow_json::reader::infer_json_schema_from_iterator(rows.iter().map(Ok::<_, arrow_schema::ArrowError>)).unwrap();
    let fields = found.fields().iter().map(|field| match types.iter().find(|(name, _)| name == field.name()) {
        Some((_, kind)) => Field::new(field.name(), kind.clone(), true),
        None => field.as_ref().clone(),
    });
    let mut decoder = arrow_json::ReaderBuilder::new(Arc::new(Schema::new(fields.collect::<Vec<_>>()))).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap()
}

fn bytes_of(batch: &RecordBatch, compression: Compression, row_group: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(row_group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn plain(rows: &[Value]) -> Vec<u8> {
    bytes_of(&batch(rows, &[]), Compression::SNAPPY, 3)
}

/// A directory with these files.
fn laid(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = quick_dir();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn scan(path: &Path, options: &Options) -> (Vec<String>, Result<Scan, DatasetError>) {
    let mut ids = Vec::new();
    let scan = dataset::scan(path, options, &mut |instance| {
        ids.push(instance.instance_id.to_string());
        Ok(())
    });
    (ids, scan)
}

fn refused(path: &Path, options: &Options) -> String {
    scan(path, options).1.unwrap_err().to_string()
}

fn split(name: &str) -> Options {
    Options { split: Some(name.into()), ..Options::default() }
}

#[test]
fn every_compression_and_type_of_text_reads_as_json_lines_do() {
    let rows = rows(0..40);
    let text = laid(&[("rows", lines(&rows).into_bytes())]);
    let wanted = scan(&text.path().join("rows"), &Options::default()).1.unwrap();
    let list = |of| DataType::new_list(of, true);
    let types: [&[(&str, DataType)]; 3] = [
        &[],
        &[("patch", DataType::LargeUtf8), ("FAIL_TO_PASS", DataType::new_large_list(DataType::LargeUtf8, true))],
        &[("version", DataType::Utf8View), ("FAIL_TO_PASS", list(DataType::Utf8View)), ("hints_text", DataType::Utf8)],
    ];
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
    ];
    for types in types {
        let batch = batch(&rows, types);
        for compression in compressions {
            for row_group in [7, 1000] {
                let dir = laid(&[("rows", bytes_of(&batch, compression, row_group))]);
                let (ids, found) = scan(&dir.path().join("rows"), &Options::default());
                assert_eq!(found.unwrap(), wanted, "{compression:?} {types:?}");
                assert_eq!((ids.len(), ids[39].as_str()), (40, "i039"));
            }
        }
    }
}

#[test]
fn dictionaries_are_text() {
    let mut rows = rows(0..4);
    for row in &mut rows {
        row["test_patch"] = "the same".into();
    }
    let text = laid(&[("rows", lines(&rows).into_bytes())]);
    let found = batch(&rows, &[]);
    let values = found.column_by_name("test_patch").unwrap();
    let values: arrow_array::DictionaryArray<arrow_array::types::Int8Type> =
        arrow_array::cast::as_string_array(values.as_ref()).iter().collect();
    let schema = found.schema();
    let columns = schema.fields().iter().zip(found.columns()).map(|(field, column)| match field.name().as_str() {
        "test_patch" => ("test_patch".to_owned(), Arc::new(values.clone()) as arrow_array::ArrayRef, true),
        name => (name.to_owned(), Arc::clone(column), true),
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap();
    let dir = laid(&[("rows.parquet", bytes_of(&batch, Compression::SNAPPY, 1000))]);
    let wanted = scan(&text.path().join("rows"), &Options::default()).1.unwrap();
    assert_eq!(scan(&dir.path().join("rows.parquet"), &Options::default()).1.unwrap(), wanted);
}

#[test]
fn a_directory_is_its_shards_by_the_order_of_their_paths() {
    let all = rows(0..9);
    let text = laid(&[("rows", lines(&all).into_bytes())]);
    let wanted = scan(&text.path().join("rows"), &Options::default()).1.unwrap();
    let none = bytes_of(&batch(&all, &[]).slice(0, 0), Compression::SNAPPY, 3);
    let hidden = b"not a row".to_vec();
    let parquet = laid(&[
        ("data/train-00002-of-00003.parquet", plain(&all[5..])),
        ("data/train-00000-of-00003.parquet", plain(&all[..5])),
        ("data/train-00001-of-00003.parquet", none.clone()),
        ("README.md", hidden.clone()),
        (".cache/old.parquet", hidden.clone()),
        ("data/.part.jsonl", hidden.clone()),
    ]);
    let flat = laid(&[
        ("b.jsonl.zst", zstd::encode_all(lines(&all[5..]).as_bytes(), 1).unwrap()),
        ("a.jsonl", lines(&all[..5]).into_bytes()),
        ("0.jsonl.gz", Vec::new()),
    ]);
    for dir in [&parquet, &flat] {
        assert_eq!(scan(dir.path(), &Options::default()).1.unwrap(), wanted);
        let limited = scan(dir.path(), &Options { limit: Some(6), filter: Some("^i00[1-8]".into()), ..Options::default() });
        assert_eq!(limited.0, ["i001", "i002", "i003", "i004", "i005", "i006"]);
    }
    // As the cache of Hugging Face's hub has them.
    let snapshot = quick_dir();
    let blobs = laid(&[("1", plain(&all))]);
    std::os::unix::fs::symlink(blobs.path().join("1"), snapshot.path().join("test.parquet")).unwrap();
    assert_eq!(scan(snapshot.path(), &Options::default()).1.unwrap(), wanted);
    let empty = laid(&[("test.parquet", none)]);
    assert!(refused(empty.path(), &Options::default()).contains("no row to run (0 rows read)"));
}

#[test]
fn of_several_splits_one_is_chosen() {
    let all = rows(0..6);
    let dir = laid(&[
        ("data/dev-00000-of-00001.parquet", plain(&all[..2])),
        ("data/test-00000-of-00002.parquet", plain(&all[2..4])),
        ("data/test-00001-of-00002.parquet", plain(&all[4..])),
        ("more.parquet", plain(&all[..1])),
    ]);
    let text = refused(dir.path(), &Options::default());
    assert!(text.contains("more than one split, no split (more.parquet), dev, test: choose with --split"), "{text}");
    assert_eq!(scan(dir.path(), &split("test")).0, ["i002", "i003", "i004", "i005"]);
    let text = refused(dir.path(), &split("train"));
    assert!(text.contains("no split \"train\"") && text.contains("dev, test"), "{text}");
    let file = dir.path().join("more.parquet");
    assert!(refused(&file, &split("test")).contains("leave out --split"));
    assert_eq!(scan(&file, &Options::default()).0, ["i000"]);
}

#[test]
fn what_is_no_dataset_is_refused_with_the_mend() {
    let one = rows(0..1);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec();
    let without = json!({"id": "a", "patch": ""});
    let hex = json!({"instance_id": "6930"});
    let binary = batch(&[hex], &[("instance_id", DataType::Binary)]);
    let cases = [
        (vec![("a.jsonl", lines(&one).into_bytes()), ("d/b.parquet", plain(&one))], "JSON lines (a.jsonl) beside Parquet (d/b.parquet)"),
        (vec![("README.md", Vec::new())], "holds no .parquet, .jsonl"),
        (vec![("a.parquet", pointer)], "a pointer of Git LFS; fetch the file itself"),
        (vec![("a.parquet", lines(&one).into_bytes())], "not the Parquet file that its name says"),
        (vec![("a.parquet", Vec::new())], "not the Parquet file that its name says"),
        (vec![("a.parquet", b"PAR1".to_vec())], "a.parquet is a Parquet file that cannot be read"),
        (vec![("a.parquet", b"PARE....PARE".to_vec())], "encrypted"),
        (vec![("a.parquet", plain(&[without]))], "no column instance_id, its columns are id, patch"),
        (vec![("a.parquet", bytes_of(&binary, Compression::SNAPPY, 9))], "column instance_id is binary: write it as text"),
    ];
    for (files, part) in cases {
        let dir = laid(&files);
        let text = refused(dir.path(), &Options::default());
        assert!(text.contains(part) && text.contains(dir.path().to_str().unwrap()), "{part}: {text}");
    }
}

#[test]
fn bad_rows_and_duplicates_are_named_by_file_and_row() {
    let mut all = rows(0..6);
    all[3]["problem_statement"] = Value::Null;
    all[4]["FAIL_TO_PASS"] = json!([]);
    all[5]["test_patch"] = "x".repeat(70_000).into();
    let again = [all[1].clone(), all[1].clone()];
    let dir = laid(&[("x-00000-of-00002.parquet", plain(&all)), ("x-00001-of-00002.parquet", plain(&again))]);
    let options = Options { max_row_bytes: 60_000, ..Options::default() };
    let (ids, found) = scan(dir.path(), &options);
    assert_eq!(ids, ["i000", "i001", "i002"]);
    let text = found.unwrap_err().to_string();
    let (first, second) = (dir.path().join("x-00000-of-00002.parquet"), dir.path().join("x-00001-of-00002.parquet"));
    let (first, second) = (first.display(), second.display());
    for part in [
        format!("{} has 5 bad rows", dir.path().display()),
        format!("{first}: row 4 (i003): problem_statement: is null; write a string"),
        format!("{first}: row 5 (i004): FAIL_TO_PASS: names no test"),
        format!("{first}: row 6: row: is 70"),
        "over the limit of 60000".to_owned(),
        format!("{second}: row 1 (i001): instance_id: i001 is in row 2 of {first} already"),
        format!("{second}: row 2 (i001): instance_id: i001 is in row 2 of {first} already"),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let skipped = scan(dir.path(), &Options { skip_bad: true, ..options }).1.unwrap();
    assert_eq!((skipped.rows, skipped.bad_total), (3, 5));
    let lines = laid(&[("a.jsonl", lines(&all[..1]).into_bytes()), ("b.jsonl", lines(&all[..1]).into_bytes())]);
    let text = refused(lines.path(), &Options::default());
    assert!(text.contains("b.jsonl: line 1 (i000)") && text.contains("is in line 1 of ") && text.contains("a.jsonl already"), "{text}");
}

/// A file that broke on its way is told, whatever the break: no panic, no end before the end.
#[test]
fn a_broken_parquet_file_names_itself() {
    let whole = plain(&rows(0..20));
    let dir = laid(&[("rows.parquet", whole.clone())]);
    let path = dir.path().join("rows.parquet");
    for length in [4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let text = refused(&path, &Options { skip_bad: true, ..Options::default() });
        assert!(text.contains("rows.parquet is a Parquet file that cannot be read, near row ") && text.contains("again"), "{text}");
    }
    let good = scan(&path, &Options::default()).1.is_ok();
    assert!(!good);
    let (mut told, mut state) = (0, 7u64);
    for _ in 0..500 {
        let mut bytes = whole.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] ^= 1 << (state >> 20 & 7);
        }
        fs::write(&path, &bytes).unwrap();
        told += u32::from(scan(&path, &Options::default()).1.is_err());
    }
    assert!(told > 100, "{told}");
}

#[test]
fn the_stamp_changes_with_what_would_be_read() {
    let all = rows(0..4);
    let dir = laid(&[("dev.parquet", plain(&all[..1])), ("test.parquet", plain(&all[1..2]))]);
    let stamp = |split| dataset::stamp(dir.path(), split);
    let first = stamp(Some("test")).unwrap().unwrap();
    assert_eq!(stamp(Some("test")).unwrap().unwrap(), first);
    assert_ne!(stamp(Some("dev")).unwrap().unwrap(), first);
    assert!(matches!(stamp(None), Err(DatasetError::Directory { .. })));
    fs::write(dir.path().join("test-1.parquet"), plain(&all[2..3])).unwrap();
    assert_ne!(stamp(Some("test")).unwrap().unwrap(), first);
    fs::remove_file(dir.path().join("test-1.parquet")).unwrap();
    assert_eq!(stamp(Some("test")).unwrap().unwrap(), first);
    let file = dir.path().join("dev.parquet");
    assert!(dataset::stamp(&file, None).unwrap().unwrap().starts_with(&format!("{}-", fs::metadata(&file).unwrap().len())));
    assert_eq!(dataset::stamp(&dir.path().join("gone"), None).unwrap(), None);
}

/// The real rows: lists of tens of thousands of ids, patches of megabytes.
#[test]
fn the_real_set_is_the_same_out_of_parquet() {
    let Ok(real) = std::env::var("SWEROLL_REALSET") else {
        assert!(std::env::var_os("CI").is_none(), "SWEROLL_REALSET must name the real set's instances.jsonl");
        eprintln!("skipped: SWEROLL_REALSET is not set");
        return;
    };
    let rows: Vec<Value> = fs::read_to_string(&real).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dir = laid(&[("train-00000-of-00002.parquet", plain(&rows[..5])), ("train-00001-of-00002.parquet", plain(&rows[5..]))]);
    let wanted = scan(Path::new(&real), &Options::default()).1.unwrap();
    assert_eq!(scan(dir.path(), &Options::default()).1.unwrap(), wanted);
}
