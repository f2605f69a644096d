//! Every input that a fuzzer found worth keeping, given to its target again.

use std::{fs, path::Path};

type Target = fn(&[u8]);

#[test]
fn kept_inputs_break_no_promise() {
    let targets: [(&str, Target); 7] = [
        ("decode", alluvium_fuzz::decode),
        ("sketches", alluvium_fuzz::sketches),
        ("pipelines", alluvium_fuzz::pipelines),
        ("schemas", alluvium_fuzz::schemas),
        ("log", alluvium_fuzz::log),
        ("statements", alluvium_fuzz::statements),
        ("wire", alluvium_fuzz::wire),
    ];
    for (name, target) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("a folder of inputs") {
            let path = entry.expect("an input").path();
            target(&fs::read(&path).expect("an input"));
            count += 1;
        }
        assert!(count >= 3, "{name} has {count} inputs");
    }
}
