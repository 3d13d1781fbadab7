"""Real-robot learning of dexterous manipulation as a ROS 2 node graph."""

import pkgutil

# The generated message package has the same name; let both folders be one package,
# also when Python runs from the source tree.
__path__ = pkgutil.extend_path(__path__, __name__)
__version__ = '0.1.0'
