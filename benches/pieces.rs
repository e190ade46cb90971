//! What the pieces of a cell's way cost, by criterion: `cargo bench --bench pieces`. Frames, the reply, a cell between a
//! bare client of the frames and a worker, a fork by the zygote.

use std::{hint::black_box, os::unix::net::UnixStream, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forkpy::testing::{
    CapturedText, CellOutcome, CellReport, CellStatus, Ending, Fate, FromWorker, MAX_FROM_WORKER, MAX_TO_WORKER,
    NewFiles, ToWorker,
    frame::{self, Assembler},
    reply,
};

#[path = "../tests/it/support/zygote.rs"]
#[expect(dead_code, reason = "the integration tests use the rest")]
mod zygote;

/// What the tests' support asks of the file above it.
fn python() -> String {
    env!("FORKPY_BUILD_PYTHON").to_owned()
}

fn report(size: usize) -> FromWorker {
    let report = CellReport {
        status: CellStatus::Ok,
        results: vec!["x".repeat(size).into()],
        displays: Vec::new(),
        notice: None,
        error: None,
        interrupted: false,
        imported: Vec::new(),
    };
    FromWorker::CellDone { cell: 1, report }
}

fn codec(criterion: &mut Criterion) {
    let request = ToWorker::RunCell { cell: 1, code: "1+1".to_owned(), may_ask: false, notebook: None };
    criterion.bench_function("encode RunCell 1+1", |bencher| {
        bencher.iter(|| frame::encode(black_box(&request), MAX_TO_WORKER));
    });
    let mut group = criterion.benchmark_group("CellDone");
    for size in [1, 1 << 20] {
        let message = report(size);
        let bytes = frame::encode(&message, MAX_FROM_WORKER).expect("small enough");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", size), &message, |bencher, message| {
            bencher.iter(|| frame::encode(black_box(message), MAX_FROM_WORKER));
        });
        group.bench_with_input(BenchmarkId::new("decode", size), &bytes, |bencher, bytes| {
            let mut assembler = Assembler::new(MAX_FROM_WORKER);
            bencher.iter(|| {
                assembler.push(black_box(bytes));
                assembler.take::<FromWorker>().expect("whole")
            });
        });
    }
}

fn outcome(output: &str) -> CellOutcome {
    CellOutcome {
        cell: 1,
        ending: Ending::Finished,
        stdout: CapturedText { text: output.to_owned(), total: output.len() as u64, ..CapturedText::default() },
        stderr: CapturedText::default(),
        background: String::new(),
        results: vec!["2".to_owned().into()],
        displays: Vec::new(),
        error: None,
        new_files: NewFiles::default(),
        queued: Duration::ZERO,
        ran: Duration::from_micros(40),
        fate: Fate::Kept,
        recovered: None,
        notices: Vec::new(),
        alerts: Vec::new(),
    }
}

/// From an outcome to the line that a client reads, but for rmcp's envelope.
fn rendering(criterion: &mut Criterion) {
    for (name, output) in [("1+1", String::new()), ("40 kB of output", "line of output\n".repeat(2_666))] {
        criterion.bench_function(&format!("render {name}"), |bencher| {
            bencher.iter_with_setup(
                || outcome(&output),
                |outcome| {
                    let reply = reply::cell("default", outcome, 0);
                    (reply::text(&reply), serde_json::to_string(&reply))
                },
            );
        });
    }
}

/// Two threads of this process, which is less than two processes.
fn socket(criterion: &mut Criterion) {
    use std::io::{Read as _, Write as _};
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
    let echo = std::thread::spawn(move || {
        let mut piece = [0; 64];
        while theirs.read_exact(&mut piece).is_ok() && theirs.write_all(&piece).is_ok() {}
    });
    let mut piece = [0; 64];
    criterion.bench_function("socket pair, 64 bytes to and fro", |bencher| {
        bencher.iter(|| {
            ours.write_all(&piece).expect("written");
            ours.read_exact(&mut piece).expect("read");
        });
    });
    drop(ours);
    echo.join().expect("it ends");
}

fn worker(criterion: &mut Criterion) {
    let mut zygote = zygote::Zygote::start();
    let mut worker = zygote.fork();
    let mut cell = 0;
    criterion.bench_function("cell 1+1, frames to a worker and back", |bencher| {
        bencher.iter(|| {
            cell += 1;
            worker.run(cell, "1+1")
        });
    });
}

/// Its end is not timed.
fn fork(criterion: &mut Criterion) {
    let mut zygote = zygote::Zygote::start();
    criterion.bench_function("fork by the zygote, to the worker's hello", |bencher| {
        bencher.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let began = std::time::Instant::now();
                let worker = zygote.fork();
                took += began.elapsed();
                worker.cell.shutdown(std::net::Shutdown::Write).expect("half-closed");
                zygote.exit_of(&worker);
            }
            took
        });
    });
}

criterion_group! {
    name = pieces;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3));
    targets = codec, rendering, socket, worker, fork
}
criterion_main!(pieces);
