"""One function in several processes of this machine, which Lightning then takes for one group."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException, start_processes

Report = Callable[[Any], None]


def in_processes(work: Callable[[int, Report], None], number: int, on_report: Report) -> None:
    """Call `work` in new processes, each with its rank and a function whose argument goes to `on_report` here.

    Args:
        work: a function that can be pickled; CPU tensors with it are shared, not copied.
        number: of processes; they share the CPU's threads.
        on_report: called in this process with what the others report, as it comes.

    Raises:
        ValueError, ArithmeticError: as a process raised it.
        torch.multiprocessing.spawn.ProcessException: a process failed otherwise; the others are ended.
    """
    from lightning.fabric.plugins.environments.lightning import find_free_network_port  # seconds to import

    reports = mp.get_context("spawn").SimpleQueue()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
    threads = max(1, torch.get_num_threads() // number)
    arguments = (work, address, threads, reports, os.getpid())
    processes: Any = start_processes(_process, arguments, nprocs=number, join=False)

    def receive() -> None:
        while not reports.empty():
            report = reports.get()
            if isinstance(report, Exception):
                raise report
            on_report(report)

    try:
        while not processes.join(timeout=0.1):
            receive()
        receive()
    except ProcessException:
        receive()  # an error that a process sent says more than that it failed
        raise
    finally:
        for process in processes.processes:
            process.kill()  # nothing to one that has ended
            process.join()


def end_with(parent: int) -> None:
    """End this process soon after the one that started it, however that one ends: nothing is left to work for."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _process(
    rank: int,
    work: Callable[[int, Report], None],
    address: dict[str, str],
    threads: int,
    reports: Any,
    parent: int,
) -> None:
    end_with(parent)
    os.environ.update(address, LOCAL_RANK=str(rank))
    torch.set_num_threads(threads)
    try:
        work(rank, reports.put)
    except (ValueError, ArithmeticError) as error:
        reports.put(error)
        raise
    finally:
        if dist.is_initialized():  # its threads must not outlive it: the process would abort at its end
            dist.destroy_process_group()
