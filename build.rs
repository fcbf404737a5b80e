//! Concatenates the `.sql` files with the database functions into one file, which the library embeds.
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    // Cargo does not notice a new migration or a new `.sql` file otherwise.
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed=src");

    let mut files = Vec::new();
    find_sql(Path::new("src"), &mut files)?;
    // By the bytes of their paths, like `sort` in the C locale: every installer must arrive at one
    // digest.
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    let texts: io::Result<Vec<String>> = files.iter().map(fs::read_to_string).collect();
    let text = texts?.concat();

    #[expect(
        clippy::disallowed_methods,
        reason = "cargo passes the output folder in the environment"
    )]
    let out_dir = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let target = Path::new(&out_dir).join("functions.sql");
    // Writing an unchanged file would make everything that embeds it compile again.
    if fs::read_to_string(&target).ok().as_ref() != Some(&text) {
        fs::write(target, text)?;
    }
    Ok(())
}

fn find_sql(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_sql(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    Ok(())
}
