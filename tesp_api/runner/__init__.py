"""What runs on the node: one TES task, by the node's own Python.

The server zips these modules with an order and has Pulsar run the zip as it is: Python 3.8 or
newer, nothing installed, nothing else of tesp_api in it. The runner fetches the inputs, runs the
executors one after another in containers, sends the outputs, and prints one framed line: the
report. Nothing of the task outlives it: a watchdog process cleans up when the runner is killed.

All modules are loaded before the zip, which holds the order's credentials, is removed. What is
slow to import (ssl, http, urllib, ctypes) is imported where it is used: the start of a task that
does nothing is what a user waits for most often.
"""
