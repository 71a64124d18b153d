"""The floor beside which `claw bench wire` stands: the plainest broker that ZeroMQ and Python give.

    python -m clawai.sdk.cli.bench.broker FRONT BACK

A ROUTER for clients, a DEALER for workers, a poller that passes messages on, and one worker process
that sends back what comes. No names, no queue, no priorities, no limits, no sandbox: what is left
is the price of the hops. It ends when its standard input is closed.
"""

import os
import sys

import zmq


def worker(address: str) -> None:
    """Send everything back, for ever."""
    socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    while True:
        socket.send_multipart(socket.recv_multipart())


def broker(front_address: str, back_address: str, child: int) -> None:
    """Pass messages on until standard input ends."""
    context = zmq.Context()
    front: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    back: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    front.bind(front_address)
    back.bind(back_address)
    poller = zmq.Poller()
    for each in (front, back, sys.stdin.fileno()):
        poller.register(each, zmq.POLLIN)
    print("ready", flush=True)
    while True:
        ready = dict(poller.poll())
        if front in ready:
            back.send_multipart(front.recv_multipart())
        if back in ready:
            front.send_multipart(back.recv_multipart())
        if sys.stdin.fileno() in ready:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os._exit(0)


def main() -> None:
    """Fork the worker before any context exists, then be the broker."""
    front, back = sys.argv[1:3]
    if child := os.fork():
        broker(front, back, child)
    worker(back)


if __name__ == "__main__":
    main()
