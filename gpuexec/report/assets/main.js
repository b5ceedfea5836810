// The page of a report: its parts, in their order.
const PARTS = [
  ["pipeline", "Pipeline", pipelinePart],
  ["stages", "Stages", stagesPart],
  ["gpus", "GPUs", gpusPart],
  ["slowest", "Slowest tasks", slowestPart],
  ["failures", "Failures", failuresPart, (report) => listed(report.failures).length],
  ["plan", "Plan", planPart],
  ["workers", "Workers", workersPart],
  ["node", "Machine", nodePart],
];

showPage({
  head: pageHead,
  verdict: ["Verdict", verdictPart],
  parts: PARTS,
  foot: (report) => `gpuexec ${report.gpuexec ?? ""} · ${report.schema ?? ""} · run ${report.run_id ?? ""}`,
});
