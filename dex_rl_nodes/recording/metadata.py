"""metadata.yaml of a rosbag2 folder."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from dex_rl_nodes.recording import messages
from dex_rl_nodes.recording.mcap_file import FileSummary

NAME = 'metadata.yaml'
_VERSION = 8  # read by Humble and everything newer


def write_metadata(folder: Path, files: Sequence[FileSummary]) -> None:
    """Write metadata.yaml of a bag of these files.

    A new file takes the place of the old one. It is not synced: that would stall the writing of the bag, and after a
    power cut it can be made again.

    Raises:
        OSError: it cannot be written.
    """
    used = [file for file in files if file.total]
    start = min((file.start for file in used), default=0)
    end = max((file.end for file in used), default=0)
    content = {
        'version': _VERSION,
        'storage_identifier': 'mcap',
        'duration': {'nanoseconds': end - start},
        'starting_time': {'nanoseconds_since_epoch': start},
        'message_count': sum(file.total for file in files),
        'topics_with_message_count': _topics(files),
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [file.name for file in files],
        'files': [_file(file) for file in files],
        'custom_data': None,
        'ros_distro': 'rosbags',
    }
    text = yaml.safe_dump({'rosbag2_bagfile_information': content}, sort_keys=False)
    temporary = folder / f'.{NAME}'
    temporary.write_text(text)
    temporary.replace(folder / NAME)


def _file(file: FileSummary) -> dict:
    return {
        'path': file.name,
        'starting_time': {'nanoseconds_since_epoch': file.start},
        'duration': {'nanoseconds': file.end - file.start},
        'message_count': file.total,
    }


def _topics(files: Sequence[FileSummary]) -> list[dict]:
    topics: dict[str, dict] = {}
    for file in files:
        for topic, (type_name, qos, count) in file.topics.items():
            entry = topics.setdefault(topic, {'topic_metadata': _topic(topic, type_name, qos), 'message_count': 0})
            entry['message_count'] += count
    return list(topics.values())


def _topic(name: str, type_name: str, qos: str) -> dict:
    return {
        'name': name,
        'type': type_name,
        'serialization_format': 'cdr',
        'offered_qos_profiles': qos,
        'type_description_hash': messages.definition(type_name)[1],
    }
