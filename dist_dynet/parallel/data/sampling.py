from ..shard import Shard, shard  # noqa
