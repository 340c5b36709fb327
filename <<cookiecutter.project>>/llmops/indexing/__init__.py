"""The index over documents that a flow searches: read, cut, embed, store, and keep up to date.

    documents ─► reading ─► chunks ─► embedding ─► store
                        manifest: what an index was built from, and whether it still is

`build` puts these together, `upkeep` is what the tasks call. The packages behind it (group index)
are imported where they are needed: a repo without `index:` has none of them.
"""
