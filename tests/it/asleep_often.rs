//! Fifty sleeps of one session with all that is hard to write down, and 50 MB of numpy: in the same zygote, in another one, and in the
//! next server. By hand, for it takes a minute and needs numpy:
//! `FORKPY_TEST_VENV=/path/to/venv cargo nextest run --test it --run-ignored only -E 'test(fifty_sleeps)'`.
//! The shorter form is `sleeping::everything_is_there_after_each_of_many_sleeps`.

use std::{fs, io::Write, path::Path, time::Instant};

use nix::sys::signal::Signal;

use crate::{
    sleeping::{CHECK, LIVE, STATE, asleep, works},
    support::{Forkpy, Setup, processes, wait_for},
};

const ROUNDS: usize = 50;

const NUMBERS: &str = r#"
import numpy as np
held = np.arange(6_250_000, dtype=np.float64); part = held[::1000]; same = part
drawn = np.random.default_rng(7); np.random.seed(3)
left = np.random.default_rng(1).random((300, 300)); product = left @ left.T
read = open("read.txt", "rb"); read.readline()
"#;

const CHECK_NUMBERS: &str = r#"
assert held.nbytes == 50_000_000 and held.sum() == 6_250_000 * 6_249_999 / 2
assert same is part and part.base is held
assert drawn.random() == np.random.default_rng(7).random(N + 1)[N]
np.random.seed(N); assert np.random.random() == np.random.RandomState(N).random()
assert np.allclose(left @ left.T, product)
assert read.readline() == b"row %d\n" % (N + 1)
assert gc.collect() >= 0
"#;

#[test]
#[ignore = "takes a minute, and needs an environment with numpy (FORKPY_TEST_VENV)"]
fn fifty_sleeps_and_every_value_is_right() {
    let venv = std::env::var("FORKPY_TEST_VENV").expect("FORKPY_TEST_VENV names an environment with numpy");
    let folder = tempfile::tempdir().expect("a folder");
    let (workspace, state) = (folder.path().join("workspace"), folder.path().join("state"));
    fs::create_dir(&workspace).expect("made");
    let rows: String = (0..=ROUNDS + 1).map(|row| format!("row {row}\n")).collect();
    fs::write(workspace.join("read.txt"), rows).expect("written");
    let start = || server(&workspace, &state, &venv);
    let mut forkpy = start();
    works(&mut forkpy, STATE);
    works(&mut forkpy, NUMBERS);
    let began = Instant::now();
    for round in 0..ROUNDS {
        let before = forkpy.pid();
        match round % 5 {
            // Its server ends, and the next one has it.
            4 => {
                drop(forkpy);
                forkpy = start();
            }
            way => {
                let told = asleep(&mut forkpy);
                wait_for("the end of its worker", || processes::state(before) == '-');
                assert!(told["disk"].as_u64().is_some_and(|bytes| bytes < 200 << 20), "{told}");
                if way == 3 {
                    let zygote = forkpy.zygote_pid();
                    processes::signal(zygote, Signal::SIGKILL);
                    wait_for("the end of the zygote", || processes::state(zygote) == '-');
                }
            }
        }
        works(&mut forkpy, &CHECK.replace('N', &round.to_string()));
        works(&mut forkpy, &CHECK_NUMBERS.replace("(N", &format!("({round}")).replace("[N]", &format!("[{round}]")));
        works(&mut forkpy, LIVE);
    }
    let took = began.elapsed().as_secs_f64();
    writeln!(std::io::stderr(), "{ROUNDS} sleeps in {took:.1} s").expect("standard error");
}

fn server(workspace: &Path, state: &Path, venv: &str) -> Forkpy {
    let state = state.to_str().expect("UTF-8");
    let setup = Setup::without_python().in_workspace(workspace).env("FORKPY_ERRAND_LIMIT", "60");
    setup.args(&["--venv", venv, "--state-dir", state, "--checkpoints", "off"]).start()
}
