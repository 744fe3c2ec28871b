"""Attacks end to end: the same object of ART, once with its in-process estimator and once with a remote one."""
