"""A folder as a user has it before publishing, for the tests of plans and pushes."""

PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
