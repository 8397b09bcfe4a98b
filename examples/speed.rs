//! How fast this processor decodes and multiplies matrices of random weights, to be asked over standard input: what
//! `benches/compare.py` measures with, in turns with others on the same machine.
//!
//!     echo ccq-2.06 int8 4096 4096 64 64 1 1 | cargo run --release --example speed
//!
//! A line names an encoding, an operation, rows, columns, copies of the matrix to take in turn, passes, threads, vectors,
//! and optionally an instruction set; the answer is the seconds of the fastest pass, each over one copy, and the megabytes
//! of that.
//!
//! decode, decode_f16 and decode_bf16 go row by row into one buffer, matrix into memory for all rows, memset fills that
//! memory; exact and int8 are products, rounding the vectors included; read and read_ahead do nothing but read the
//! same bytes, the latter prefetching them as products do.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ccq::code::{Code, Family};
use ccq::codec::{Activations, ClusterParams, Isa, Matrix, Planes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut kept = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [encoding, operation, numbers @ ..] = words.as_slice() else { return Err(line.into()) };
        let number =
            |at: usize| numbers.get(at).ok_or("a number is missing")?.parse().map_err(|_| "no number");
        let (rows, columns, copies): (usize, usize, usize) = (number(0)?, number(1)?, number(2)?);
        let (passes, threads, vectors): (usize, usize, usize) = (number(3)?, number(4)?, number(5)?);
        let (name, group) = encoding.split_once(':').unwrap_or((encoding, ""));
        let family = Family::from_name(name).ok_or("no such encoding")?;
        let code = if group.is_empty() { family.default_code() } else { family.code(group.parse()?) }?;
        let key = (code, rows, columns, copies);
        if !kept.contains_key(&key) {
            kept.clear(); // one at a time: they are large
        }
        let planes = kept.entry(key).or_insert_with(|| random(&code, rows, columns, copies));
        let isa =
            numbers.get(6).map_or(Some(Isa::detect()), |name| Isa::all().find(|isa| isa.name() == *name));
        let isa = isa.ok_or("no such instruction set")?;
        let matrices =
            planes.iter().map(|planes| matrix(code, rows, columns, planes).with_isa(isa)).collect();
        let seconds = Bench { matrices, isa, passes, threads: threads.max(1), vectors }.run(operation)?;
        let bytes: usize = planes.first().map_or(0, |planes| planes.iter().map(Vec::len).sum());
        let mut out = std::io::stdout().lock();
        writeln!(out, "{seconds:e} {:.3}", bytes as f64 / 1e6)?;
        out.flush()?;
    }
    Ok(())
}

/// Random codes and scales, the same bits in every copy.
fn random(code: &Code, rows: usize, columns: usize, copies: usize) -> Vec<[Vec<u8>; 4]> {
    let sizes = code.plane_sizes(rows as u64, columns as u64).expect("a matrix that fits memory");
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = |len: u64| -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    };
    let cluster = code.cluster().map_or_else(Vec::new, |kind| {
        let mut pair = vec![0; ClusterParams::stored_bytes(kind)];
        ClusterParams::Q8 { a: 30_721, zp: 1234 }.write(&mut pair);
        pair.repeat(rows)
    });
    let super_scale = 0.01f32.to_le_bytes().repeat(rows);
    vec![[bytes(sizes.code), bytes(sizes.local_scale), super_scale, cluster]; copies]
}

fn matrix(code: Code, rows: usize, columns: usize, planes: &[Vec<u8>; 4]) -> Matrix<'_> {
    let [code_plane, local_scale, super_scale, cluster] = planes;
    let planes = Planes { code: code_plane, local_scale, super_scale, cluster };
    Matrix::new(code, rows, columns, planes).expect("planes of the sizes asked for")
}

/// How often threads are started.
const STARTS: usize = 8;

struct Bench<'a> {
    matrices: Vec<Matrix<'a>>,
    isa: Isa,
    passes: usize,
    threads: usize,
    vectors: usize,
}

impl<'a> Bench<'a> {
    fn run(&self, operation: &str) -> Result<f64, String> {
        let (rows, columns) = (self.matrices[0].rows(), self.matrices[0].in_features());
        let x: Vec<f32> = (0..columns * self.vectors).map(|at| (at % 7) as f32 - 3.0).collect();
        let mut row = vec![0.0f32; columns];
        match operation {
            "decode" => Ok(self.best(|matrix| {
                (0..rows).for_each(|r| matrix.decode_rows_into(r..r + 1, black_box(&mut row)).unwrap());
            })),
            "decode_f16" => {
                let mut row = vec![half::f16::ZERO; columns];
                Ok(self.best(|matrix| {
                    (0..rows).for_each(|r| matrix.decode_rows_as(r..r + 1, black_box(&mut row)).unwrap());
                }))
            }
            "decode_bf16" => {
                let mut row = vec![half::bf16::ZERO; columns];
                Ok(self.best(|matrix| {
                    (0..rows).for_each(|r| matrix.decode_rows_as(r..r + 1, black_box(&mut row)).unwrap());
                }))
            }
            "matrix" => {
                let mut out = vec![1.0f32; rows * columns];
                Ok(self.best(|matrix| matrix.decode_rows_into(0..rows, black_box(&mut out)).unwrap()))
            }
            "memset" => {
                let mut out = vec![1u8; rows * columns * 4];
                Ok(self.best(|_| black_box(&mut out).fill(1)))
            }
            "exact" => {
                Ok(self.product(|| x.clone(), |matrix, rows, x, y| matrix.matvec_rows(rows, x, y).unwrap()))
            }
            "int8" => Ok(self.product(
                || Activations::new(black_box(&x), columns),
                |matrix, rows, x, y| matrix.matvec_int8_rows(rows, x, y).unwrap(),
            )),
            "read" => Ok(self.product(|| (), |matrix, rows, _, _| self.read(matrix, rows, false))),
            "read_ahead" => Ok(self.product(|| (), |matrix, rows, _, _| self.read(matrix, rows, true))),
            _ => Err(format!("no operation is called {operation}")),
        }
    }

    /// Reads the planes of some rows.
    fn read(&self, matrix: &Matrix<'_>, rows: Range<usize>, prefetch: bool) {
        let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
        for plane in [code, local_scale, super_scale, cluster] {
            let width = plane.len() / matrix.rows();
            black_box(self.isa.read(&plane[rows.start * width..rows.end * width], prefetch));
        }
    }

    /// The copies in turn.
    fn passes(&self) -> impl Iterator<Item = &Matrix<'a>> {
        self.matrices.iter().cycle().take(self.passes)
    }

    /// Seconds of the fastest product, with the rows in as many equal parts as there are threads. Those are started anew
    /// now and then: where other work is running, two may have to share a core as long as they last.
    fn product<X: Send + Sync>(
        &self,
        vectors: impl Fn() -> X + Sync,
        part: impl Fn(&Matrix<'_>, Range<usize>, &X, &mut [f32]) + Sync,
    ) -> f64 {
        let rows = self.matrices[0].rows();
        let size = rows.div_ceil(self.threads);
        let meeting = Meeting { threads: self.threads, arrivals: AtomicUsize::new(0) };
        let x = RwLock::new(vectors());
        let work = |passes: &[&Matrix<'_>], at: usize| {
            let (first, last) = ((at * size).min(rows), ((at + 1) * size).min(rows));
            let mut y = vec![0.0; (last - first) * self.vectors];
            let mut best = f64::INFINITY;
            for matrix in passes {
                meeting.wait();
                let begin = Instant::now();
                if at == 0 {
                    *x.write().unwrap() = vectors();
                }
                meeting.wait();
                part(black_box(matrix), first..last, &x.read().unwrap(), black_box(&mut y));
                meeting.wait();
                best = best.min(begin.elapsed().as_secs_f64());
            }
            best
        };
        let start = |passes| {
            std::thread::scope(|scope| {
                let work = &work;
                (1..self.threads).for_each(|at| drop(scope.spawn(move || work(passes, at))));
                work(passes, 0)
            })
        };
        let passes: Vec<_> = self.passes().collect();
        passes.chunks(passes.len().div_ceil(STARTS).max(1)).map(start).fold(f64::INFINITY, f64::min)
    }

    /// Seconds of the fastest pass.
    fn best(&self, mut pass: impl FnMut(&Matrix<'_>)) -> f64 {
        let mut best = f64::INFINITY;
        for matrix in self.passes() {
            let start = Instant::now();
            pass(black_box(matrix));
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    }
}

/// Where threads wait for each other without sleeping, as those of inference engines do: to wake one takes a good part
/// of the time of a product. One that waits for long makes room: the other may be waiting for its core.
struct Meeting {
    threads: usize,
    arrivals: AtomicUsize,
}

impl Meeting {
    fn wait(&self) {
        const MOST_SPINS: u32 = 2_000;
        let mut spins = 0u32;
        let meeting = self.arrivals.fetch_add(1, Ordering::AcqRel) / self.threads;
        while self.arrivals.load(Ordering::Acquire) / self.threads == meeting {
            match spins {
                MOST_SPINS.. => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
            spins = spins.saturating_add(1);
        }
    }
}
