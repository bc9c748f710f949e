"""Sessions, streams and jobs as lines of JSON, which other tools read too, and back into a store
that is in use: `export` and `import_`. The format is described in `lines`."""

from mcp_persist_middleware.ops.transfer.exporting import Exported, export
from mcp_persist_middleware.ops.transfer.importing import Imported, import_

__all__ = ["Exported", "Imported", "export", "import_"]
