//! Whether an instance's working directory is in its sandbox.

use crate::domain::{Failure, Kind};
use crate::toolbox::client::{Toolbox, ToolboxError};
use crate::toolbox::protocol::{Op, OpError};

/// # Errors
/// `Workdir` for a relative path, or one that climbs.
pub fn check_absolute(workdir: &str) -> Result<(), Failure> {
    if workdir.starts_with('/') && !workdir.split('/').any(|part| part == "..") {
        return Ok(());
    }
    Err(Failure::new(Kind::Workdir, format!("workdir {workdir:?} is no absolute path; correct the instance")))
}

/// # Errors
/// `Workdir` when it is not there, `SandboxLost` when the toolbox is not there any more.
pub async fn check(toolbox: &Toolbox, workdir: &str, image: &str) -> Result<(), Failure> {
    match toolbox.call(Op::Directory { path: workdir.to_owned() }, b"").await {
        Ok(_) => Ok(()),
        Err(ToolboxError::Op(OpError::Invalid { message })) => {
            let mend = "correct the instance's workdir or its image";
            Err(Failure::new(Kind::Workdir, format!("workdir {workdir} is not a directory in image {image}: {message}; {mend}")))
        }
        Err(error) => Err(Failure::new(Kind::SandboxLost, format!("cannot look for workdir {workdir} in image {image}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_path_that_does_not_climb_will_do() {
        assert!(check_absolute("/workspace/a..b").is_ok());
        for bad in ["", "workspace", "/a/../etc"] {
            assert_eq!(check_absolute(bad).unwrap_err().kind, Kind::Workdir, "{bad}");
        }
    }
}
