"""Attacks end to end: the same object of ART, with its in-process estimator and with a remote one."""
