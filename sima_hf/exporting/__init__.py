"""Models as files for runtimes: ONNX, OpenVINO, ExecuTorch; run, compared and certified before they are left in a folder."""
