"""What programs do with the Python SDK, against the cluster of the environment."""
import arvados
import arvados.collection
import arvados.util

api = arvados.api("v1")
user = api.users().current().execute()
assert user["is_active"], user

# save_new, read, update, save, remove
collection = arvados.collection.Collection()
with collection.open("greeting.txt", "w") as f:
    f.write("hello\n")
with collection.open("folder/other.txt", "w") as f:
    f.write("other\n")
collection.save_new("from the sdk")
uuid = collection.manifest_locator()

second = arvados.collection.Collection(uuid)
with second.open("greeting.txt") as f:
    assert f.read() == "hello\n"
with second.open("second.txt", "w") as f:
    f.write("second\n")
second.save()

collection.update()
assert sorted(collection) == ["folder", "greeting.txt", "second.txt"], sorted(collection)

collection.remove("folder", recursive=True)
collection.rename("second.txt", "renamed.txt")
collection.save()
record = api.collections().get(uuid=uuid).execute()
again = arvados.collection.Collection(record["portable_data_hash"])
assert sorted(again) == ["greeting.txt", "renamed.txt"], sorted(again)

# two writers of one collection: the merge of the SDK
left, right = arvados.collection.Collection(uuid), arvados.collection.Collection(uuid)
with left.open("left.txt", "w") as f:
    f.write("left\n")
with right.open("right.txt", "w") as f:
    f.write("right\n")
left.save()
right.save()
merged = arvados.collection.Collection(uuid)
assert {"left.txt", "right.txt"} <= set(merged), sorted(merged)

# replace_files
api.collections().update(
    uuid=uuid, body={"collection": {}}, replace_files={"/moved.txt": "current/left.txt", "/left.txt": ""}).execute()
assert "moved.txt" in arvados.collection.Collection(uuid)

# trash and untrash
api.collections().trash(uuid=uuid).execute()
try:
    api.collections().get(uuid=uuid).execute()
    raise AssertionError("a trashed collection is still there")
except arvados.errors.ApiError as error:
    assert error.status_code == 404, error
api.collections().untrash(uuid=uuid).execute()
assert api.collections().get(uuid=uuid).execute()["is_trashed"] is False

# keyset paging over more than a page, with small pages through `limit`
project = api.groups().create(body={"group": {"group_class": "project", "name": "many"}}).execute()
made = set()
for number in range(25):
    body = {"collection": {"name": f"item {number}", "owner_uuid": project["uuid"]}}
    made.add(api.collections().create(body=body).execute()["uuid"])
listed = [item["uuid"] for item in arvados.util.keyset_list_all(
    api.collections().list, filters=[["owner_uuid", "=", project["uuid"]]])]
assert sorted(listed) == sorted(made), (len(listed), len(made))
contents = [item["uuid"] for item in arvados.util.keyset_list_all(
    api.groups().contents, uuid=project["uuid"], order_key="uuid")]
assert sorted(contents) == sorted(made)

print("all of it works")
