"""The groups of figures, in the order in which they are measured and shown."""

from __future__ import annotations

from benchmarks.account import calls
from benchmarks.attacks import end_to_end
from benchmarks.bulk import memory, round_trip
from benchmarks.crowd import many, throughput
from benchmarks.operations import cnn, resnet
from benchmarks.setting import Group

GROUPS = {
    cnn.GROUP: Group("Single calls, CNN", cnn.measure),
    resnet.GROUP: Group("Single calls, ResNet18 on 3 x 32 x 32", resnet.measure),
    throughput.GROUP: Group("Several clients, CNN", throughput.measure),
    round_trip.GROUP: Group("Large tensors", round_trip.measure),
    end_to_end.GROUP: Group("Attacks end to end", end_to_end.measure),
    memory.GROUP: Group("The server's memory", memory.measure),
    many.GROUP: Group("A thousand clients", many.measure),
    calls.GROUP: Group("Microseconds of a call", calls.measure),
}
