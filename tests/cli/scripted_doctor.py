"""A doctor that finds one orphan on a host, until somebody has it removed."""

from countermand.rpc.server import Service
from countermand.v1 import doctor_pb2 as pb
from countermand.v1 import doctor_pb2_grpc as pb_grpc

ORPHAN = pb.Finding(
    name="hosts/host-a/findings/image-orphan/fast/disk-1",
    kind=pb.Finding.KIND_IMAGE_ORPHAN,
    host="hosts/host-a",
    pool_id="fast",
    subject="disk-1",
    message="Nobody is meant to have left it.",
    advice="remove it",
    fix=pb.Finding.FIX_REMOVE_IMAGE,
    allocated_bytes=4096,
)


class ScriptedDoctor(pb_grpc.DoctorServiceServicer):
    """Keeps what is found in memory."""

    def __init__(self) -> None:
        self.found = {ORPHAN.name: ORPHAN}

    async def Diagnose(self, request, context):
        yield pb.DiagnoseResponse(looking=pb.Looking(host="hosts/host-a", total=1))
        for finding in self.found.values():
            yield pb.DiagnoseResponse(finding=finding)
        seen = pb.Diagnosis(hosts=1, images=1, findings=len(self.found), version="0.1.0")
        seen.time.GetCurrentTime()
        yield pb.DiagnoseResponse(diagnosis=seen)

    async def Repair(self, request, context):
        for name in request.names:
            del self.found[name]
        return pb.RepairResponse(repaired=[pb.Repaired(name=name) for name in request.names])


def service() -> Service:
    return Service(
        pb.DESCRIPTOR.services_by_name["DoctorService"].full_name,
        pb_grpc.add_DoctorServiceServicer_to_server,
        ScriptedDoctor(),
    )
