//! The layer over the driver of CUDA, with a driver that stands in for one.

use std::sync::Arc;

use jetspool::cuda::{Argument, Buffer, Context, CudaError, Graph, Grid, Module, Pinned};

use crate::support::{data, standin};

fn open() -> (Arc<Context>, Arc<Module>) {
    standin::load();
    let context = Context::open(0).unwrap().unwrap();
    let module = Module::load(&context, &standin::module(&data("../standin/probe.cu"))).unwrap();
    (context, module)
}

fn whole(n: usize) -> Argument {
    Argument::I32(n.try_into().unwrap())
}

const GRID: Grid = Grid { blocks: [2, 1, 1], threads: 64, shared: 0 };

#[test]
fn kernels_run_in_their_order_on_buffers_and_on_memory_of_the_host() {
    let (context, module) = open();
    let (axpy, sum) = (module.function("axpy").unwrap(), module.function("sum").unwrap());
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let (x, mut y) = (Buffer::of(&context, &x).unwrap(), Buffer::of(&context, &[1.0_f32; 100]).unwrap());
    let mut found = Pinned::<f32>::new(&context, 1).unwrap();
    let step =
        [Argument::Address(x.address()), Argument::Address(y.address()), Argument::F32(0.5), whole(100)];
    let total = [Argument::Address(y.address()), Argument::Address(found.address()), whole(100)];
    let shared = Grid { blocks: [1, 1, 1], threads: 32, shared: 128 };
    // SAFETY: the buffers have 100 numbers, which live until they are read.
    unsafe {
        axpy.launch(GRID, &step).unwrap();
        sum.launch(shared, &total).unwrap();
        axpy.launch(GRID, &step).unwrap();
    }
    let mut values = [0.0; 100];
    y.read(0, &mut values).unwrap();
    // SAFETY: everything was waited for.
    assert_eq!(unsafe { found.as_slice() }, [100.0 + 0.5 * 4950.0]);
    assert!(values.iter().enumerate().all(|(i, &value)| value == 1.0 + i as f32));

    // Once more as a graph, which sees what the buffers hold when it runs.
    let graph = Graph::capture(&context, || {
        // SAFETY: as above.
        unsafe { axpy.launch(GRID, &step).and_then(|()| sum.launch(shared, &total)) }
    });
    let graph = graph.unwrap();
    y.write(10, &[7.0; 5]).unwrap();
    // SAFETY: everything was waited for.
    unsafe { found.as_mut_slice()[0] = 0.0 };
    let before = context.n_calls();
    graph.launch().unwrap();
    context.synchronize().unwrap();
    assert_eq!(context.n_calls() - before, 2);
    let mut some = [0.0; 7];
    y.read(9, &mut some).unwrap();
    assert_eq!(some, [14.5, 12.0, 12.5, 13.0, 13.5, 14.0, 23.5]);
    let all: f32 = (0..100)
        .map(|i| if (10..15).contains(&i) { 7.0 + i as f32 * 0.5 } else { 1.0 + i as f32 * 1.5 })
        .sum();
    // SAFETY: everything was waited for.
    assert_eq!(unsafe { found.as_slice() }, [all]);
    assert_eq!(context.fault(), None);
}

#[test]
fn what_is_not_possible_is_told_and_breaks_nothing() {
    let (context, module) = open();
    let code = |error: CudaError| error.code;
    assert_eq!(module.function("nothing").map(|_| ()).map_err(code), Err(500));
    assert_eq!(Module::load(&context, &[0; 256]).map(|_| ()).map_err(code), Err(200));
    assert_eq!(Buffer::<f32>::new(&context, 1 << 40).map(|_| ()).map_err(code), Err(2));
    let axpy = module.function("axpy").unwrap();
    let too_many = Grid { threads: 2048, ..GRID };
    // SAFETY: it is refused.
    let refused = unsafe {
        axpy.launch(too_many, &[Argument::Address(0), Argument::Address(0), Argument::F32(0.0), whole(0)])
    };
    assert!(matches!(refused.map_err(code), Err(1 | 701)), "{refused:?}");
    // A capture that fails leaves none under way.
    let failed = Graph::capture(&context, || Err(CudaError { call: "mine", code: 1 }));
    assert_eq!(failed.map(|_| ()), Err(CudaError { call: "mine", code: 1 }));
    assert_eq!(context.fault(), None);
    let (free, total) = context.memory().unwrap();
    assert!(0 < free && free <= total);
    let buffer = Buffer::of(&context, &[1_u8, 2, 3]).unwrap();
    let mut bytes = [0; 2];
    buffer.read(1, &mut bytes).unwrap();
    assert_eq!(bytes, [2, 3]);
}

#[test]
fn a_context_serves_whichever_thread_has_it() {
    let (context, module) = open();
    let axpy = module.function("axpy").unwrap();
    let (x, y) =
        (Buffer::of(&context, &[2.0_f32; 64]).unwrap(), Buffer::of(&context, &[1.0_f32; 64]).unwrap());
    let y = std::thread::spawn(move || {
        let arguments =
            [Argument::Address(x.address()), Argument::Address(y.address()), Argument::F32(3.0), whole(64)];
        // SAFETY: 64 numbers each, which live until the thread ends.
        unsafe { axpy.launch(GRID, &arguments).unwrap() };
        let mut values = [0.0; 64];
        y.read(0, &mut values).unwrap();
        values
    });
    assert_eq!(y.join().unwrap(), [7.0; 64]);
}
