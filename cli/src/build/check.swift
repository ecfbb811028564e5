// Runs Core ML packages on each compute unit of this Mac and compares them with the numbers computed for them.
//
//     swift check.swift [FOLDER] [--verbose]
//
// FOLDER is where `reference.safetensors` and its packages lie: the folder of this file unless given. The table has
// one line for each unit:
//
//     load s    time to load all packages, which have been compiled before
//     call ms   time of one call through all packages: the median
//     error     the largest absolute error of an output, as a share of the largest magnitude expected of it
//     cosine    the smallest cosine between an output and what is expected
//     best      rows of logits that have the same best token
//     verdict   ok where `error` is within the bound of the reference
//
// The exit status is 0 when cpuOnly loads and every unit that loads agrees, else 1. With `--verbose`, calls and tensors
// are listed, and what Core ML itself has to say is shown.
// Needs macOS 13 and the command line tools of Xcode; states and named functions need macOS 15 and Xcode 16.

import CoreML
import Foundation

let units: [(name: String, value: MLComputeUnits)] = [
    ("cpuOnly", .cpuOnly), ("cpuAndGPU", .cpuAndGPU), ("cpuAndNeuralEngine", .cpuAndNeuralEngine), ("all", .all),
]

struct Failure: LocalizedError {
    let errorDescription: String?
    init(_ text: String) { errorDescription = text }
}

/// Types of elements, as safetensors names them.
enum Scalar: String, CaseIterable {
    case f16 = "F16", f32 = "F32", i32 = "I32"

    var width: Int { self == .f16 ? 2 : 4 }
    var type: MLMultiArrayDataType { self == .f16 ? .float16 : self == .f32 ? .float32 : .int32 }

    func read(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> Float {
        let offset = index * width
        switch self {
        case .f16: return half(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        case .f32: return bytes.loadUnaligned(fromByteOffset: offset, as: Float.self)
        case .i32: return Float(bytes.loadUnaligned(fromByteOffset: offset, as: Int32.self))
        }
    }
}

/// A half-precision number from its bits: Swift has no `Float16` on Intel Macs.
func half(_ bits: UInt16) -> Float {
    let size = UInt32(bits & 0x7fff) << 13
    // An exponent of half precision counts from -15, one of single precision from -127.
    let value = size < 0x0f80_0000 ? Float(bitPattern: size) * 0x1p112 : Float(bitPattern: size | 0x7f80_0000)
    return bits & 0x8000 == 0 ? value : -value
}

/// Where the elements of an array lie, in their order. Strides count elements, and rows may be padded.
func offsets(_ shape: [Int], _ strides: [Int]) -> [Int] {
    zip(shape, strides).reduce([0]) { all, axis in all.flatMap { at in (0..<axis.0).map { at + $0 * axis.1 } } }
}

func values(_ array: MLMultiArray) throws -> [Float] {
    guard let scalar = Scalar.allCases.first(where: { $0.type == array.dataType }) else {
        throw Failure("elements of type \(array.dataType.rawValue) are not known here")
    }
    let places = offsets(array.shape.map { $0.intValue }, array.strides.map { $0.intValue })
    return array.withUnsafeBytes { bytes in places.map { scalar.read(bytes, $0) } }
}

struct Tensor {
    let scalar: Scalar, shape: [Int], bytes: Data

    /// A copy for Core ML.
    func array() throws -> MLMultiArray {
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: scalar.type)
        array.withUnsafeMutableBytes { copy, _ in _ = bytes.copyBytes(to: copy) }
        return array
    }
}

/// What `reference.safetensors` holds: inputs and outputs of consecutive calls, and how to run them.
struct Reference {
    let tensors: [String: Tensor]
    let packages: [String], outputs: [String]
    /// Outputs with new rows, and the inputs that hold the rows of earlier calls: those are not in the file.
    let commits: [(rows: String, cache: String)]
    let function: String?, bound: Double, calls: Int

    init(_ folder: URL) throws {
        struct Entry: Decodable { let dtype: String?, shape: [Int]?, data_offsets: [Int]? }
        struct Header: Decodable { let __metadata__: [String: String] }
        let name = "reference.safetensors"
        let data = try Data(contentsOf: folder.appendingPathComponent(name), options: .mappedIfSafe)
        let size = data.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard data.count >= 8, size <= data.count - 8 else { throw Failure("\(name) is cut short") }
        let begin = 8 + Int(size)
        let header = data.subdata(in: 8..<begin)
        var tensors: [String: Tensor] = [:]
        for (key, entry) in try JSONDecoder().decode([String: Entry].self, from: header) where key != "__metadata__" {
            guard let scalar = entry.dtype.flatMap(Scalar.init(rawValue:)), let shape = entry.shape,
                let place = entry.data_offsets, place.count == 2, place[0] >= 0, place[1] <= data.count - begin,
                place[1] - place[0] == shape.reduce(scalar.width, *)
            else { throw Failure("\(name): \(key) cannot be read") }
            tensors[key] = Tensor(scalar: scalar, shape: shape, bytes: data[begin + place[0]..<begin + place[1]])
        }
        let metadata = try JSONDecoder().decode(Header.self, from: header).__metadata__
        func fact(_ key: String) throws -> String {
            guard let text = metadata[key] else { throw Failure("\(name) does not say `\(key)`") }
            return text
        }
        guard let count = Int(try fact("package.count")), count > 0, let bound = Double(try fact("max_error")) else {
            throw Failure("\(name): `package.count` or `max_error` is no number")
        }
        (self.tensors, self.bound) = (tensors, bound)
        packages = try (0..<count).map { try fact("package.\($0)") }
        commits = try (metadata["commit"] ?? "").split(separator: ",").map { pair in
            let names = pair.split(separator: ">").map { $0.trimmingCharacters(in: .whitespaces) }
            guard names.count == 2 else { throw Failure("\(name): `commit` has \(pair)") }
            return (rows: names[0], cache: names[1])
        }
        function = metadata["function"]
        outputs = try fact("outputs").split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
        calls = (0...).first { call in !tensors.keys.contains { $0.hasPrefix("call\(call).") } } ?? 0
        guard calls > 0, !outputs.isEmpty else { throw Failure("\(name) has no calls or no outputs") }
    }

    func tensor(_ name: String, call: Int, part: Int) -> Tensor? {
        tensors["call\(call).part\(part).\(name)"] ?? tensors["call\(call).\(name)"]
    }
}

// MARK: One step, in a process of its own

/// What a step found out, written for the process that started it.
struct Report: Codable {
    var loadSeconds: Double?, callMilliseconds: [Double] = []
    var (error, cosine) = (0.0, 1.0)
    var (same, rows) = (0, 0)
    var failure: String?, lines: [String] = [], finished = false

    /// Compares one output. A row of logits has the scores of all tokens.
    mutating func compare(_ found: [Float], _ wanted: [Float], row: Int?, name: String) {
        var (worst, largest, product, foundSquares, wantedSquares) = (0.0, 0.0, 0.0, 0.0, 0.0)
        for (a, b) in zip(found, wanted).lazy.map({ (Double($0), Double($1)) }) {
            let error = a == b ? 0 : abs(a - b)
            worst = max(worst, error.isNaN ? .infinity : error)
            largest = b.isFinite ? max(largest, abs(b)) : largest
            product += a * b
            foundSquares += a * a
            wantedSquares += b * b
        }
        let share = largest > 0 && worst.isFinite ? worst / largest : worst
        let norms = (foundSquares * wantedSquares).squareRoot()
        let angle = norms > 0 && norms.isFinite ? product / norms : worst == 0 ? 1 : 0
        error = max(error, share)
        cosine = min(cosine, angle)
        var line = name + String(format: ": error %.1e of %.4g, cosine %.6f", share, largest, angle)
        if let row = row, row > 0 {
            let starts = stride(from: 0, to: wanted.count, by: row)
            let agree = starts.filter { best(found[$0..<$0 + row]) == best(wanted[$0..<$0 + row]) }.count
            same += agree
            rows += wanted.count / row
            line += ", same best token in \(agree) of \(wanted.count / row) rows"
        }
        lines.append(line)
    }

    private func best(_ row: ArraySlice<Float>) -> Int? {
        row.indices.max { row[$0] < row[$1] }.map { $0 - row.startIndex }
    }
}

/// A loaded package. States and functions are in the SDK that comes with Swift 6: older tools cannot name them.
struct Part {
    let model: MLModel
    let inputs: [String: MLFeatureDescription]
    var state: AnyObject?, caches: [String: MLMultiArray] = [:]

    init(_ compiled: URL, _ unit: MLComputeUnits, _ reference: Reference) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = unit
        #if compiler(>=6.0)
        if #available(macOS 15, *) { configuration.functionName = reference.function }
        #else
        guard reference.function == nil else { throw Failure("a named function needs Xcode 16") }
        #endif
        model = try MLModel(contentsOf: compiled, configuration: configuration)
        inputs = model.modelDescription.inputDescriptionsByName
        #if compiler(>=6.0)
        if #available(macOS 15, *), !model.modelDescription.stateDescriptionsByName.isEmpty {
            state = model.makeState()
        }
        #endif
        for name in reference.commits.map({ $0.cache }) {
            guard let declared = inputs[name]?.multiArrayConstraint else { continue }
            let cache = try MLMultiArray(shape: declared.shape, dataType: declared.dataType)
            cache.withUnsafeMutableBytes { bytes, _ in _ = bytes.initializeMemory(as: UInt8.self, repeating: 0) }
            caches[name] = cache
        }
    }

    func predict(_ values: [String: MLFeatureValue]) throws -> MLFeatureProvider {
        let provider = try MLDictionaryFeatureProvider(dictionary: values)
        #if compiler(>=6.0)
        if #available(macOS 15, *), let state = state as? MLState {
            return try model.prediction(from: provider, using: state)
        }
        #endif
        return try model.prediction(from: provider)
    }
}

/// Runs one call through all packages, several times where that changes nothing, and compares what the first run gives.
func run(_ call: Int, _ parts: [Part], _ reference: Reference, _ report: inout Report) throws {
    var inputs = parts.map { _ in [String: MLFeatureValue]() }
    for (index, part) in parts.enumerated() {
        for name in part.inputs.keys where index == 0 || name != "hidden_in" {
            guard let array = try part.caches[name] ?? reference.tensor(name, call: call, part: index)?.array() else {
                throw Failure("call \(call): the reference has no input \(name)")
            }
            inputs[index][name] = MLFeatureValue(multiArray: array)
        }
    }
    let rounds = parts.contains { $0.state != nil } ? 1 : 5
    var times: [Double] = []
    var made: [MLFeatureProvider] = []
    for round in 0..<rounds {
        try autoreleasepool {
            var time = 0.0
            made = []
            for (index, part) in parts.enumerated() {
                if index > 0 { inputs[index]["hidden_in"] = made[index - 1].featureValue(for: "hidden_out") }
                let begin = Date()
                made.append(try part.predict(inputs[index]))
                time += Date().timeIntervalSince(begin)
            }
            times.append(time * 1000)
            if round == 0 { try compare(call, made, reference, &report) }
        }
    }
    try commit(call, made, parts, reference)
    report.callMilliseconds.append(times.sorted()[times.count / 2])
    report.lines.append("call \(call): " + times.map { String(format: "%.2f", $0) }.joined(separator: ", ") + " ms")
}

/// What a host does after a call: keeps the new rows for later calls, or drops them where no position is given.
func commit(_ call: Int, _ made: [MLFeatureProvider], _ parts: [Part], _ reference: Reference) throws {
    guard !reference.commits.isEmpty, let tensor = reference.tensors["call\(call).commit"] else { return }
    guard tensor.scalar == .i32, tensor.shape == [1] else { throw Failure("call\(call).commit is not one I32") }
    for (part, given) in zip(parts, made) {
        for (name, input) in reference.commits {
            guard let cache = part.caches[input] else { continue }
            let place = "call \(call) \(name) for \(input)"
            guard let rows = given.featureValue(for: name)?.multiArrayValue else { throw Failure("\(place): missing") }
            try write(rows, into: cache, at: tensor.array()[0].intValue, place)
        }
    }
}

/// Writes rows, [L, 1, KV, T, D], into a cache, [L, 1, KV, C, D], from a position of axis 3 on.
func write(_ rows: MLMultiArray, into cache: MLMultiArray, at position: Int, _ place: String) throws {
    let (shape, room) = (rows.shape.map { $0.intValue }, cache.shape.map { $0.intValue })
    guard shape.count == 5, room.count == 5, shape[..<3] == room[..<3], shape[4] == room[4],
        position >= 0, position + shape[3] <= room[3],
        let width = Scalar.allCases.first(where: { $0.type == cache.dataType })?.width
    else { throw Failure("\(place): \(shape) does not fit into \(room) at \(position)") }
    let same = rows.dataType == cache.dataType
    let rows = same ? rows : MLMultiArray(concatenating: [rows], axis: 0, dataType: cache.dataType)
    rows.withUnsafeBytes { source in
        cache.withUnsafeMutableBytes { target, strides in
            let first = position * strides[3]
            for (from, to) in zip(offsets(shape, rows.strides.map { $0.intValue }), offsets(shape, strides)) {
                memcpy(target.baseAddress! + (first + to) * width, source.baseAddress! + from * width, width)
            }
        }
    }
}

func compare(_ call: Int, _ made: [MLFeatureProvider], _ reference: Reference, _ report: inout Report) throws {
    for name in reference.outputs {
        var seen = false
        for (part, provider) in made.enumerated() {
            guard let array = provider.featureValue(for: name)?.multiArrayValue,
                let tensor = reference.tensor(name, call: call, part: part)
            else { continue }
            let place = made.count == 1 ? "call \(call) \(name)" : "call \(call) part \(part) \(name)"
            let shape = array.shape.map { $0.intValue }
            guard shape == tensor.shape else { throw Failure("\(place) is \(shape), expected is \(tensor.shape)") }
            let row = name == "logits" ? shape.last : nil
            report.compare(try values(array), try values(tensor.array()), row: row, name: place)
            seen = true
        }
        guard seen else { throw Failure("call \(call): no package gives \(name), or the reference lacks it") }
    }
}

func compile(_ package: URL, to place: URL) throws {
    final class Answer: @unchecked Sendable { var result: Result<URL, Error>? }
    let (answer, done) = (Answer(), DispatchSemaphore(value: 0))
    // Core ML answers on another thread. The form that waits by itself is deprecated.
    MLModel.compileModel(at: package) { (result: Result<URL, Error>) in
        answer.result = result
        done.signal()
    }
    done.wait()
    if let made = try answer.result?.get() { try FileManager.default.moveItem(at: made, to: place) }
}

/// Does one step: compiles, or checks one unit. The report is saved after loading too, so that a later crash is told
/// from one while loading.
func perform(_ step: String, _ folder: URL, _ work: URL) throws {
    var report = Report()
    let file = work.appendingPathComponent(step)
    do {
        let reference = try Reference(folder)
        let compiled = reference.packages.indices.map { work.appendingPathComponent("\($0).mlmodelc") }
        if let unit = units.first(where: { $0.name == step })?.value {
            let begin = Date()
            let parts = try compiled.map { try Part($0, unit, reference) }
            report.loadSeconds = Date().timeIntervalSince(begin)
            try PropertyListEncoder().encode(report).write(to: file)
            for call in 0..<reference.calls { try run(call, parts, reference, &report) }
        } else {
            for (name, place) in zip(reference.packages, compiled) {
                try compile(folder.appendingPathComponent(name), to: place)
            }
        }
    } catch {
        report.failure = describe(error)
        report.lines.append("\(error)")
    }
    report.finished = true
    try PropertyListEncoder().encode(report).write(to: file)
}

// MARK: All steps

/// This file, or the program compiled from it: `swift FILE …` gives FILE as argument 0.
let script = CommandLine.arguments[0].hasSuffix(".swift")
let itself = (script ? URL(fileURLWithPath: CommandLine.arguments[0]) : Bundle.main.executableURL!).absoluteURL

/// Starts this program again for one step, because a prediction may end the process that asks for it.
func start(_ step: String, _ folder: URL, _ work: URL, _ verbose: Bool) throws -> Report {
    let process = Process()
    process.executableURL = script ? URL(fileURLWithPath: "/usr/bin/swift") : itself
    process.arguments = (script ? [itself.path] : []) + [folder.path, "--unit", step, "--work", work.path]
    process.standardOutput = verbose ? FileHandle.standardError : FileHandle.nullDevice
    process.standardError = process.standardOutput
    try process.run()
    process.waitUntilExit()
    let saved = (try? Data(contentsOf: work.appendingPathComponent(step))) ?? Data()
    var report = (try? PropertyListDecoder().decode(Report.self, from: saved)) ?? Report()
    if process.terminationReason == .uncaughtSignal {
        report.failure = "crashed (signal \(process.terminationStatus))"
    } else if !report.finished {
        report.failure = "failed: ended with status \(process.terminationStatus)"
    }
    return report
}

/// Does all steps and prints the table.
func check(_ folder: URL, _ verbose: Bool) throws -> Bool {
    let version = ProcessInfo.processInfo.operatingSystemVersionString
    say("macOS \(version), \(machine("machdep.cpu.brand_string")), \(machine("hw.model"))")
    let reference = try Reference(folder)
    say("\(reference.packages.joined(separator: ", ")): \(reference.calls) calls, error at most \(reference.bound)")
    let work = FileManager.default.temporaryDirectory.appendingPathComponent("diffulex-check-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: work, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: work) }
    if let failure = try start("compile", folder, work, verbose).failure { throw Failure("compiling " + failure) }
    say(row(["unit", "load s", "call ms", "error", "cosine", "best", "verdict"]))
    var agrees = true
    for unit in units.map({ $0.name }) {
        let report = try start(unit, folder, work, verbose)
        let within = report.error <= reference.bound
        var cells = [unit, report.loadSeconds.map { String(format: "%.1f", $0) } ?? "-", "-", "-", "-", "-"]
        let times = report.callMilliseconds.sorted()
        if !times.isEmpty {
            cells[2] = String(format: "%.2f", times[times.count / 2])
            cells[3] = String(format: "%.1e", report.error)
            cells[4] = String(format: "%.6f", report.cosine)
            cells[5] = report.rows > 0 ? "\(report.same)/\(report.rows)" : "-"
        }
        say(row(cells + [report.failure ?? (within ? "ok" : "DIFFERENT")]))
        if verbose { report.lines.forEach { say("    \($0)") } }
        agrees = agrees && (report.loadSeconds == nil ? unit != "cpuOnly" : report.failure == nil && within)
    }
    return agrees
}

func say(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }

func row(_ cells: [String]) -> String {
    let padded = zip(cells, [20, 9, 10, 10, 11, 10]).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }
    return padded.joined() + cells[6]
}

func describe(_ error: Error) -> String {
    "failed: " + error.localizedDescription.split(whereSeparator: { $0.isNewline }).joined(separator: " ")
}

/// A fact of the machine.
func machine(_ name: String) -> String {
    var bytes = [UInt8](repeating: 0, count: 256)
    var size = bytes.count
    guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return "unknown" }
    return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
}

do {
    var words = CommandLine.arguments.dropFirst()
    var (folder, verbose) = (itself.deletingLastPathComponent(), false)
    var (unit, work): (String?, String?)
    while let word = words.popFirst() {
        switch word {
        case "--verbose": verbose = true
        case "--unit": unit = words.popFirst()
        case "--work": work = words.popFirst()
        case _ where word.hasPrefix("-"): throw Failure("usage: swift check.swift [FOLDER] [--verbose]")
        default: folder = URL(fileURLWithPath: word)
        }
    }
    if let unit = unit, let work = work {
        try perform(unit, folder, URL(fileURLWithPath: work))
        exit(0)
    }
    exit(try check(folder, verbose) ? 0 : 1)
} catch {
    say(describe(error))
    exit(1)
}
