"""What the models cannot say of their fields: formats, and a sentence for whoever reads it."""

from collections.abc import Mapping
from typing import Any, Final

Note = Mapping[str, Any]


def _says(description: str, **more: Any) -> Note:  # noqa: ANN401
    return {"description": description, **more}


NAMES: Final[Mapping[str, str]] = {
    "CanceledTask": "tesCancelTaskResponse",
    "CreatedTask": "tesCreateTaskResponse",
    "Executor": "tesExecutor",
    "ExecutorLog": "tesExecutorLog",
    "FileType": "tesFileType",
    "Input": "tesInput",
    "MinimalTask": "tesTaskMinimal",
    "Output": "tesOutput",
    "OutputFileLog": "tesOutputFileLog",
    "Resources": "tesResources",
    "ServiceDescription": "tesServiceInfo",
    "ServiceType": "tesServiceType",
    "State": "tesState",
    "Task": "tesTask",
    "TaskList": "tesListTasksResponse",
    "TaskLog": "tesTaskLog",
}
"""Names of our models in the standard's document."""

_TIME: Final = "In RFC 3339."

NOTES: Final[Mapping[str, Mapping[str, Note]]] = {
    "tesTask": {
        "id": _says("Given by the server."),
        "name": _says("Any text; lists can be filtered by how it begins."),
        "executors": _says("Run one after another, up to the first that fails.", minItems=1),
        "inputs": _says("Put in place before the first executor starts."),
        "outputs": _says("Sent away after the last executor has ended, as far as they exist."),
        "volumes": _says(
            "Absolute paths of directories, empty at the start, that all executors share."
        ),
        "tags": _says("Any pairs; lists can be filtered by them."),
        "logs": _says("One entry for each attempt to run the task."),
        "creation_time": _says(_TIME),
    },
    "tesExecutor": {
        "image": _says("Name of a container image.", examples=["ubuntu:20.04"]),
        "command": _says("The program and its arguments. No shell reads them.", minItems=1),
        "workdir": _says("Absolute path; by default what the image says. Made if it is not there."),
        "stdin": _says("Absolute path of a file to read standard input from."),
        "stdout": _says("Absolute path of a file to keep standard output in."),
        "stderr": _says("Absolute path of a file to keep standard error in."),
        "ignore_error": _says("Go on with the next executor even if this one fails."),
    },
    "tesInput": {
        "url": _says("Where it comes from. Ignored if content is set."),
        "path": _says("Absolute path in the containers."),
        "content": _says("The file itself, as text."),
        "streamable": _says("Accepted and kept; files are always copied."),
    },
    "tesOutput": {
        "url": _says("Where it is sent."),
        "path": _says("Absolute path in the containers; may have wildcards (*, ?, [...])."),
        "path_prefix": _says("What is cut from the paths that wildcards find."),
    },
    "tesResources": {
        "cpu_cores": _says("A limit for each executor.", format="int32"),
        "ram_gb": _says("A limit for each executor, in 10^9 bytes.", format="double"),
        "disk_gb": _says("In 10^9 bytes.", format="double"),
        "preemptible": {"format": "boolean"},
        "backend_parameters_strict": _says(
            "Refuse the task if it has backend parameters that service-info does not list.",
            format="boolean",
        ),
    },
    "tesTaskLog": {
        "logs": _says("One entry for each executor that has run."),
        "start_time": _says(_TIME),
        "end_time": _says(_TIME),
        "outputs": _says("Every file that was sent."),
        "system_logs": _says("What the server and the node have to say. In the view FULL only."),
    },
    "tesExecutorLog": {
        "start_time": _says(_TIME),
        "end_time": _says(_TIME),
        "stdout": _says("The last of the standard output."),
        "stderr": _says("The last of the standard error."),
        "exit_code": {"format": "int32"},
    },
    "tesOutputFileLog": {"size_bytes": _says("A decimal number.", format="int64")},
}
"""By component and property."""
