"""Things for the site tree: site.py COLLECTION tags it and makes nested projects; prints the outer project's uuid."""
import sys

import arvados

api = arvados.api("v1")
for tag in ("fruit", "with space"):
    api.links().create(body={"link": {"link_class": "tag", "name": tag, "head_uuid": sys.argv[1]}}).execute()
outer = api.groups().create(body={"group": {"group_class": "project", "name": "nested"}}).execute()
inner = api.groups().create(
    body={"group": {"group_class": "project", "name": "inner", "owner_uuid": outer["uuid"]}}).execute()
for name, owner in (("one", outer), ("three", inner)):
    api.collections().create(body={"collection": {"name": name, "owner_uuid": owner["uuid"]}}).execute()
api.groups().create(body={"group": {
    "group_class": "filter", "name": "filtered", "owner_uuid": outer["uuid"],
    "properties": {"filters": [["collections.name", "=", "three"], ["uuid", "is_a", "arvados#collection"]]}}}).execute()
print(outer["uuid"])
