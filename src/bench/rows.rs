//! Instances made up for measurements: as long as real ones, each with a statement of its own.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Bytes of a problem statement; Scale-SWE's have 1.5 to 3 KB as a rule.
const STATEMENT: usize = 2000;

/// Writes `rows` instances. Their tests are scripts, so that no runner is looked for, and no base commit is checked.
///
/// # Errors
/// Of the disk.
pub fn write(path: &Path, rows: u64) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..rows {
        let mut statement = format!("Instance {number} of the measurement: the value is lost on its way.\\n\\n");
        while statement.len() < STATEMENT {
            statement.push_str("When the session is configured twice, the second request sees what the first one left behind. ");
        }
        writeln!(
            file,
            "{{\"instance_id\":\"bench_{number:06}\",\"user\":\"bench\",\"repo\":\"r{number}\",\"language\":\"shell\",\"workdir\":\"/repo\",\
             \"image_url\":\"none\",\"patch\":\"diff --git a/a b/a\\n\",\"pr_commit\":\"\",\"parent_commit\":\"\",\"problem_statement\":\"{statement}\",\
             \"f2p_patch\":\"\",\"f2p_script\":\"\",\"FAIL_TO_PASS\":[\"tests/a.sh\",\"tests/b.sh\"],\"PASS_TO_PASS\":[\"tests/c.sh\"],\
             \"github_url\":\"https://example.org/bench\",\"pre_commands\":\"\"}}"
        )?;
    }
    file.flush()
}
