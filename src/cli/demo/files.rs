//! The demo's files: in a folder of its own, readable by its owner alone, removed at the end.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) struct Files {
    folder: PathBuf,
    config: PathBuf,
}

impl Files {
    pub(super) fn write(config: &str, secret: &str) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("bearerd-demo-{:08x}", fastrand::u32(..)));
        // Fails where it is there already: nobody else's folder or link is used.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let files = Self { config: folder.join("bearerd.toml"), folder };
        write_private(&files.config, config)?;
        write_private(&files.folder.join("client-secret"), secret)?;
        Ok(files)
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(
                event = "demo.cleanup_failed", folder = %self.folder.display(), %error,
                "cannot remove the demo's files"
            );
        }
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn are_for_the_owner_alone_and_removed_at_the_end() {
        let files = Files::write("workers = 1", "s3cr3t").unwrap();
        let (folder, config) = (files.folder.clone(), files.config().to_owned());
        for (path, mode) in [(&folder, 0o700), (&config, 0o600), (&folder.join("client-secret"), 0o600)] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        drop(files);
        assert!(!folder.exists());
    }
}
