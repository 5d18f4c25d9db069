# Sourced by what runs on a GPU: where the loader does not know cuBLASLt, it is looked for in the CUDA toolkit and in the packages of
# python3 (PYTHON), and LD_LIBRARY_PATH gets its folder.
find_cublaslt() {
    local folder
    ! ldconfig -p 2> /dev/null | grep -q 'libcublasLt\.so\.' || return 0
    for folder in "${CUDA_PATH:-/usr/local/cuda}"/{lib64,lib} \
        $("${PYTHON:-python3}" -c 'import glob, site; print(*(f for s in site.getsitepackages() for f in glob.glob(s + "/nvidia/*/lib")))' 2> /dev/null); do
        if compgen -G "$folder/libcublasLt.so.*" > /dev/null; then
            export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            return 0
        fi
    done
}
find_cublaslt
