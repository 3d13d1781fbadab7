"""What command_mux says about safety: in the terminal when it changes, on /diagnostics all the time."""

from dex_rl_nodes.nodes.node import ERROR, OK, WARN, Node
from dex_rl_nodes.nodes.publishers import Lookout
from dex_rl_nodes.robot.events import SafetyEvent
from dex_rl_nodes.robot.mux import CommandMux


class SafetyReports:
    """Tells a person why the robot does not move.

    Args:
        node: in whose name.
        mux: who holds it.
        lookout: who looks for other publishers; None: in a dry run it does not matter who else is there.
    """

    def __init__(self, node: Node, mux: CommandMux, lookout: Lookout | None):
        self._node, self._mux, self._lookout = node, mux, lookout
        self._told: set[str] = set()

    def tell(self) -> None:
        """Say once in the terminal what holds the robot, and when nothing does any more; a stop is said elsewhere."""
        sentences = {event.sentence(name) for event, name in self._mux.explanations} | ({self._doubt()} - {''})
        for sentence in sorted(sentences - self._told):
            self._node.get_logger().warning(sentence)
        if self._told and not sentences and not self._mux.stopped:
            self._node.get_logger().info('nothing holds the robot any more')
        self._told = sentences

    def report(self, active: bool, called_off: bool) -> None:
        """Publish the state on /diagnostics.

        Args:
            active: an episode runs or is prepared, so a cause of a hold matters.
            called_off: a stop has ended this episode, released or not.
        """
        level, message = WARN, self._doubt()
        if self._mux.stopped:
            level, message = ERROR, self._mux.stop_reason
        elif not message and called_off:
            message = 'a stop has ended this episode'
        elif not message and active and self._mux.explanations:
            event, name = self._mux.explanations[0]
            message = event.sentence(name)
        if not message:
            level, message = OK, 'ok'
        self._node.report('safety', level, message, **self._mux.log.summary())

    def _doubt(self) -> str:
        """Who must vanish before anything moves; empty when nobody is in the way."""
        if self._lookout and self._lookout.intruder:
            return SafetyEvent.SECOND_PUBLISHER.sentence(f'{self._lookout.intruder}; waiting for it to vanish')
        if self._lookout and self._lookout.doubled:
            return f'begins no motion: {self._lookout.doubled} are two where one must be; end one of them, or wait 20 s'
        return ''
