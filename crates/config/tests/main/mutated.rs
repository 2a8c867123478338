//! Configurations mutated from good ones: each has a plan, which can be held against the good one's, or a diagnostic with its
//! place; nothing panics, and nothing takes long.

use marca_config::change::changes;
use marca_config::plan::{Difference, Plan};
use marca_config::{Level, load};
use marca_testkit::mutation::Mutator;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// By which all of this can be had again.
const SEED: u64 = 1;
const TEXTS: usize = 1_000;

/// Every good configuration of the repository: its tests', its package's, and those that its documentation shows as a whole.
fn good() -> Vec<String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.join("../..");
    let mut texts: Vec<String> = files(&own.join("tests/good"), "toml").iter().map(read).collect();
    texts.extend(files(&own.join("tests/warned"), "toml").iter().map(read));
    texts.push(read(root.join("packaging/example.toml")));
    let demo = read(root.join("crates/testkit/src/bin/marca-demo.rs"));
    texts.extend(demo.split("r#\"").skip(1).filter_map(|rest| rest.split_once("\"#")).map(|(text, _)| text.to_owned()));
    let mut pages = files(&root.join("docs"), "md");
    pages.extend(files(&root.join("docs/howto"), "md"));
    pages.push(root.join("README.md"));
    for page in pages.iter().map(read) {
        let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
        for (block, _) in blocks {
            let director = "[router]\noutside = 'eth0'\ninside = 'eth1'\n";
            let server = "[[service.shop.server]]\naddress = '10.0.0.11'\n";
            texts.extend([
                format!("{block}\n"),
                format!("{block}\n{director}"),
                format!("{block}\n{server}{director}"),
            ]);
        }
    }
    texts.retain(|text| load("good.toml", text).is_ok());
    texts
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|is| is == extension));
    paths.sort();
    paths
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_thousand_mutated_configurations_have_a_plan_or_a_diagnostic_with_its_place() {
    let good = good();
    assert!(good.len() > 20, "{}", good.len());
    let mut mutator = Mutator::new(SEED);
    let (mut taken, mut refused) = (0, 0);
    for number in 0..TEXTS {
        let from = mutator.choose(&good).clone();
        let text = mutator.spoil(&from);
        // Shown if something panics.
        println!("{number}:\n{text}");
        let began = Instant::now();
        match load("mutated.toml", &text) {
            Err(faults) => {
                refused += 1;
                assert!(faults.has_errors());
                let mut errors = faults.iter().filter(|fault| fault.level == Level::Error);
                let has_place = errors.clone().any(|fault| fault.primary.is_some());
                // But for one: what is not there is nowhere.
                let lacks = errors.all(|fault| fault.message == "the file has no [router]");
                assert!(has_place || lacks, "{faults}");
                for span in faults.iter().flat_map(|fault| fault.primary.iter().map(|label| &label.span)) {
                    assert!(text.get(span.clone()).is_some(), "{span:?}");
                    let (line, column) = faults.position(span.start);
                    assert!(line <= 1 + text.matches('\n').count() && column > 0);
                }
                assert!(!faults.render(false).is_empty());
            }
            Ok(loaded) => {
                taken += 1;
                let before = load("good.toml", &from).unwrap().config;
                // What no tables can hold is refused in words, too.
                if let (Ok(plan), Ok(former)) = (Plan::of(&loaded.config), Plan::of(&before)) {
                    assert!(Difference::of(&plan, &plan).is_empty());
                    let there = Difference::of(&former, &plan);
                    assert_eq!(there.is_empty(), Difference::of(&plan, &former).is_empty());
                    let changes = changes(&before, &loaded.config);
                    // What packets find different is told in the file's words.
                    assert!(there.is_empty() || !changes.is_empty(), "{there:?}");
                    assert!(changes.iter().all(|change| !change.to_string().is_empty()));
                }
            }
        }
        assert!(began.elapsed() < SLOW, "{number} took {:?}", began.elapsed());
    }
    assert!(taken > TEXTS / 20 && refused > TEXTS / 2, "{taken} taken, {refused} refused");
}

/// For a debug build on a machine that has other things to do.
const SLOW: Duration = Duration::from_secs(5);
