"""Misbehaviour on request: rules as values, the decision which applies, and wrappers around the node's ports.

A rule says for whom and when (IMSI, APN, command, step, attempt, share) and what goes wrong then. Nothing in
the server knows of rules: ``aaa.runtime`` puts the wrappers around the HSS port and the Diameter handlers.
"""
